# Every target sets up all that it needs: a virtual environment in .venv, and by apt what is missing of RabbitMQ and Node.js.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell scripts/bootstrap.sh find-python 3.11 3.12 3.13 3.14)
BROKER ?= embedded
MINUTES ?= 10
JOBS ?= 3
BIN := .venv/bin
READY := .venv/.ready
PEERS := $(foreach peer,ray celery dramatiq,.venv-peers/$(peer)/.ready)
NODE_PACKAGES := $(if $(wildcard tests/node/package.json),tests/node/node_modules/.ready)

.NOTPARALLEL:
.PHONY: help demo test test-all simulate check chaos bench bench-peers compose-test clean rabbitmq node

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s%s\n", $$1, $$2 }' Makefile

demo: $(READY) $(filter rabbitmq,$(BROKER)) ## Index the standard library by actors in two processes, and kill one half-way (BROKER=rabbitmq)
	@$(BIN)/python -m examples.index_sources --kill --broker $(BROKER)

test: $(READY) rabbitmq $(NODE_PACKAGES) ## Run the tests, but for the slow ones, in JOBS=3 processes: they mostly wait (ARGS='-k deadline' chooses)
	@$(BIN)/pytest -n $(JOBS) --dist loadfile -m 'not slow and not docker' $(ARGS)

test-all: $(READY) rabbitmq $(NODE_PACKAGES) ## Run all tests, on each Python from 3.11 to 3.13 that is installed
	@scripts/test_all.sh $(ARGS)

simulate: $(READY) ## Look for a broken promise of durable mailboxes in worlds by seed (SEEDS=10000 FIRST=0 MUTANT='a high-water mark')
	@$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0) --processes 2 \
		$(if $(MUTANT),--mutant '$(MUTANT)')

check: $(READY) node ## Lint, formatting, types (mypy and pyright), layers
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	@report=$$($(BIN)/lint-imports) || { echo "$$report" >&2; exit 1; }

chaos: $(READY) rabbitmq ## Hold a bank of durable actors to its books while all around it is killed (MINUTES=10, ARGS=--cluster for three brokers)
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(ARGS)

bench: $(READY) rabbitmq bench-peers ## Measure calls, tells and starts against bare pika, Ray, Celery and Dramatiq, on a private RabbitMQ
	@$(BIN)/python -m bench $(ARGS)

bench-peers: $(PEERS) ## Install what `make bench` compares with: Ray, Celery and Dramatiq, each in an environment of its own

compose-test: $(READY) ## Bring up a cluster of containers, kill one in the middle of the demo, check the result
	@docker info >/dev/null 2>&1 || { echo "no Docker engine answers; start one, or set DOCKER_HOST" >&2; exit 1; }
	@$(BIN)/pytest -m docker -s tests/test_compose.py $(ARGS)

clean: ## Remove the virtual environments, caches and builds
	@rm -rf .venv .venv-* build dist .cache .*_cache .hypothesis tests/node/node_modules
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@scripts/bootstrap.sh venv .venv "$(PYTHON)"

.venv-peers/%/.ready: | $(READY)
	@scripts/bootstrap.sh peer .venv-peers/$* "$(PYTHON)"

rabbitmq:
	@scripts/bootstrap.sh rabbitmq

node:
	@scripts/bootstrap.sh node

tests/node/node_modules/.ready: tests/node/package.json | node
	@if command -v npm >/dev/null; then npm install --prefix tests/node --silent --no-audit --no-fund && touch $@; fi
