"""Shared parts of the commands: options, queries through a hub, and output."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, NoReturn, TypeAlias, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actorhub.core import logging_setup
from actorhub.hub.hub import Hub
from actorhub.settings import Settings

R = TypeVar("R")

Columns: TypeAlias = Mapping[str, Callable[[R], object]]
"""Heading of a column, and the function that gives its cell for a row."""

console = Console()

NO_BROKER = "no broker is configured; set ACTORHUB_URL, or give --url"
NO_CONTROL = "control does not answer; is a node running? start one with `actorhub node MODULE`"

Url = Annotated[str | None, typer.Option(help="URL of the broker; by default ACTORHUB_URL.")]
Namespace = Annotated[str | None, typer.Option(help="Namespace; by default ACTORHUB_NAMESPACE, or 'default'.")]
AllNamespaces = Annotated[bool, typer.Option("--all", help="Include every namespace.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def fail(message: str) -> NoReturn:
    """End the command with a message and code 1."""
    Console(stderr=True).print(f"[bold red]error[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise SystemExit(1)


def settings_from(url: str | None, namespace: str | None, **more: Any) -> Settings:
    given: dict[str, Any] = {"url": url, "namespace": namespace, **more}
    return Settings(**{name: value for name, value in given.items() if value is not None})


def query(
    settings: Settings, question: Callable[[Hub], Awaitable[R]], timeout: float = 10.0, late: str = NO_CONTROL
) -> R:
    """Ask a hub with these settings, and return its reply. Without one in `timeout` seconds, exit with the message `late`."""

    async def within() -> R:
        async with Hub(settings=settings) as hub, asyncio.timeout(timeout):
            return await question(hub)

    return run_until_done(settings, within, late)


def run_until_done(settings: Settings, query: Callable[[], Coroutine[Any, Any, R]], late: str) -> R:
    """Run a query on an event loop, and return its result. On TimeoutError the command ends with the message `late`."""
    if settings.url is None:
        fail(NO_BROKER)
    logging_setup.configure_logging(settings.log_format, "ERROR")
    try:
        return asyncio.run(query())
    except TimeoutError:
        fail(late)


def print_rows(rows: Sequence[R], columns: Columns[R], *, as_json: bool = False) -> None:
    """Print rows as a table. A column that gives None has an empty cell."""
    if as_json:
        print_json(rows)
        return
    table = Table(*columns)
    for row in rows:
        cells = [cell(row) for cell in columns.values()]
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in cells))
    console.print(table)


def print_json(value: Any) -> None:
    rows = (
        [row.model_dump(mode="json") if isinstance(row, BaseModel) else row for row in value]
        if isinstance(value, list)
        else value
    )
    sys.stdout.write(json.dumps(rows, indent=2) + "\n")


def words(pairs: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in pairs.items())


def moment(when: float | None) -> str:
    """Local time; empty if it is not known."""
    return datetime.fromtimestamp(when).astimezone().isoformat(" ", "seconds") if when else ""
