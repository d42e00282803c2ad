"""Command line: thin commands over the hub and the node."""

from __future__ import annotations

import sys

import typer
from pydantic import ValidationError

from actorhub.cli import dead_letters
from actorhub.cli.common import fail
from actorhub.cli.inspect import actors, demand, explain, groups, history, status, tasks
from actorhub.cli.run import bench, call, dev, drain, metrics, node
from actorhub.errors import ActorHubError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Typed, fault-tolerant actors on RabbitMQ.",
)
for command in (node, dev, status, actors, tasks, groups, demand, drain, call, explain, history, metrics, bench):
    app.command()(command)
app.add_typer(dead_letters.app, name="dead")


def main() -> None:
    """Run the command line. Known errors exit with their message and code 1."""
    sys.path.insert(0, "")  # modules of the current directory, as `python -m` finds them
    try:
        app()
    except (ActorHubError, ImportError, ValidationError) as exc:
        fail(f"{type(exc).__name__}: {exc}")
