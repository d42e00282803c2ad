# Each target installs what it needs: a virtual environment in .venv, and RabbitMQ and Node.js by apt if they are missing.
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
NODE_PACKAGES := $(if $(wildcard tests/nodejs/package.json),tests/nodejs/node_modules/.ready)

.NOTPARALLEL:
.PHONY: help demo test test-all simulate check chaos bench bench-peers compose-test clean rabbitmq node

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s%s\n", $$1, $$2 }' Makefile

demo: $(READY) $(filter rabbitmq,$(BROKER)) ## Run the demo: actors in two processes, one of which is killed, index the standard library (BROKER=rabbitmq)
	@$(BIN)/python -m examples.index_sources --kill --broker $(BROKER)

test: $(READY) rabbitmq $(NODE_PACKAGES) ## Run the tests except slow and Docker ones (JOBS=3 processes, ARGS='-k deadline' selects tests)
	@$(BIN)/pytest -n $(JOBS) --dist loadfile -m 'not slow and not docker' $(ARGS)

test-all: $(READY) rabbitmq $(NODE_PACKAGES) ## Run all tests on each installed Python from 3.11 to 3.13; Docker tests if a Docker engine answers (JOBS=3)
	@scripts/test_all.sh -n $(JOBS) --dist loadfile $(ARGS)

simulate: $(READY) ## Simulate durable mailboxes under faults and check their guarantees (SEEDS=10000 FIRST=0 MUTANT=name)
	@$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0) --processes 2 \
		$(if $(MUTANT),--mutant '$(MUTANT)')

check: $(READY) node ## Check lint, formatting, types (mypy and pyright) and import layers
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	@report=$$($(BIN)/lint-imports) || { echo "$$report" >&2; exit 1; }

chaos: $(READY) rabbitmq ## Kill brokers and processes of a bank of durable actors, and audit it (MINUTES=10 ARGS=--cluster)
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(ARGS)

bench: $(READY) rabbitmq bench-peers ## Run all benchmarks against bare pika, Ray, Celery and Dramatiq (ARGS='--seconds 5')
	@$(BIN)/python -m bench $(ARGS)

bench-peers: $(PEERS) ## Install Ray, Celery and Dramatiq for `make bench`, in separate virtual environments

compose-test: $(READY) ## Kill a container of a cluster in the middle of the demo, and check the result (needs Docker)
	@docker info >/dev/null 2>&1 || { echo "no Docker engine answers; start one, or set DOCKER_HOST" >&2; exit 1; }
	@$(BIN)/pytest -m docker -s tests/packaging/test_compose.py $(ARGS)

clean: ## Remove virtual environments, caches and builds
	@rm -rf .venv .venv-* build dist .cache .*_cache .hypothesis tests/nodejs/node_modules
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@scripts/bootstrap.sh venv .venv "$(PYTHON)"

.venv-peers/%/.ready: | $(READY)
	@scripts/bootstrap.sh peer .venv-peers/$* "$(PYTHON)"

rabbitmq:
	@scripts/bootstrap.sh rabbitmq

node:
	@scripts/bootstrap.sh node

tests/nodejs/node_modules/.ready: tests/nodejs/package.json | node
	@if command -v npm >/dev/null; then npm install --prefix tests/nodejs --silent --no-audit --no-fund && touch $@; fi
