"""Commands for dead letters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from actorhub.cli.common import (
    Columns,
    Json,
    Namespace,
    Url,
    console,
    fail,
    moment,
    print_json,
    print_rows,
    run_until_done,
    settings_from,
)
from actorhub.core.addressing import SYSTEM
from actorhub.errors import ActorHubError
from actorhub.messaging.dead_letter import DeadLetter
from actorhub.messaging.dead_letter_queue import DeadLetterQueue
from actorhub.messaging.session import Session

R = TypeVar("R")

app = typer.Typer(
    no_args_is_help=True,
    help="Read, replay or purge dead letters: messages that could not be processed. Needs no node.",
)

LETTER = typer.Argument(min=0, max=2**63 - 1, help="Ids, as `actorhub dead list` shows them.")
READ_TIMEOUT_SECONDS = 300.0
MAX_SHOWN_BYTES = 2000  # of a body that is not an envelope


@app.command("list")
def dead_list(
    url: Url = None,
    namespace: Namespace = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of letters.")] = 100,
    after: Annotated[
        int | None, typer.Option(min=0, max=2**62, help="Only letters after the one with this id.")
    ] = None,
    json_: Json = False,
) -> None:
    """List the oldest dead letters, one a line."""
    letters = _dead(url, namespace, lambda dead: dead.read(limit, after))
    columns: Columns[DeadLetter] = {
        "id": lambda letter: letter.id,
        "time": lambda letter: moment(letter.time),
        "reason": lambda letter: letter.reason,
        "actor or queue": lambda letter: letter.actor or letter.queue,
        "method": lambda letter: letter.method,
        "error": lambda letter: letter.error,
        "attempts": lambda letter: letter.attempts or None,
        "replayed": lambda letter: moment(letter.replayed),
    }
    print_rows(letters, columns, as_json=json_)


@app.command("show")
def dead_show(id: Annotated[int, LETTER], url: Url = None, namespace: Namespace = None, json_: Json = False) -> None:
    """Show a dead letter with its arguments and its traceback."""
    letter = _dead(url, namespace, lambda dead: dead.get(id))
    if json_:
        print_json(letter.model_dump(mode="json"))
        return
    fields = {
        "id": letter.id,
        "time": moment(letter.time),
        "reason": letter.reason,
        "queue": letter.queue,
        "actor": letter.actor,
        "method": letter.method,
        "call": letter.call,
        "error": letter.error,
        "exception": letter.exception,
        "attempts": letter.attempts or "",
        "replayed": moment(letter.replayed),
        "arguments": "" if letter.arguments is None else json.dumps(letter.arguments, indent=2, ensure_ascii=False),
        "body": repr(letter.body[:MAX_SHOWN_BYTES]) if letter.arguments is None else f"{len(letter.body)} bytes",
    }
    lines = [f"{name:<10} {value}".rstrip() for name, value in fields.items()]
    console.print("\n".join([*lines, letter.traceback]), highlight=False, markup=False, soft_wrap=True)


@app.command("replay")
def dead_replay(
    ids: Annotated[list[int], LETTER],
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Send the messages of dead letters again. Exits with code 1 if one could not be sent."""

    async def replay(dead: DeadLetterQueue) -> list[DeadLetter | ActorHubError]:
        return [await _replayed(dead, id) for id in ids]

    done = _dead(url, namespace, replay)
    for one in done:
        if isinstance(one, DeadLetter):
            what = f"{one.id}: {one.method or one.reason} was sent again to {one.queue}"
            console.print(what, highlight=False, markup=False, soft_wrap=True)
    errors = [f"{type(one).__name__}: {one}" for one in done if isinstance(one, ActorHubError)]
    if errors:
        fail("\n".join(errors))


async def _replayed(dead: DeadLetterQueue, id: int) -> DeadLetter | ActorHubError:
    try:
        return await dead.replay(id)
    except ActorHubError as exc:
        return exc


@app.command("purge")
def dead_purge(
    url: Url = None,
    namespace: Namespace = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """Delete all dead letters of the namespace."""
    where = namespace if namespace == SYSTEM else settings_from(url, namespace).namespace
    if not yes:
        typer.confirm(f"Delete all dead letters of namespace {where!r}?", abort=True)
    count = _dead(url, namespace, lambda dead: dead.purge())
    console.print(f"{count} dead letters of namespace {where!r} were deleted", highlight=False, markup=False)


def _dead(url: str | None, namespace: str | None, query: Callable[[DeadLetterQueue], Awaitable[R]]) -> R:
    """Run a query on the dead letters of a namespace, or of the system's own, whose namespace no hub can have."""
    settings = settings_from(url, namespace if namespace != SYSTEM else None)

    async def within() -> R:
        session = Session(settings, name="dead letters")
        try:
            await session.open()
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                return await query(DeadLetterQueue(session, namespace or settings.namespace))
        finally:
            await session.close()

    late = f"the broker did not reply in {READ_TIMEOUT_SECONDS:.0f} s; does it have an alarm? see `rabbitmqctl status`"
    return run_until_done(settings, within, late)
