"""The command line: thin commands over the hub and the node."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, NoReturn

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actorhub import logs
from actorhub.benchmark import measure
from actorhub.cluster import BrokerChoice
from actorhub.control.infos import NodeInfo
from actorhub.errors import ActorHubError
from actorhub.explanation import Explanation
from actorhub.history import ActorState, HistoryEntry
from actorhub.hub import Hub
from actorhub.letter import DeadLetter
from actorhub.node import NodeConfig, run
from actorhub.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Typed, fault-tolerant actors on RabbitMQ.",
)
dead_app = typer.Typer(
    no_args_is_help=True, help="What could not be processed: look at it, send it again, drop it. It needs no node."
)
app.add_typer(dead_app, name="dead")
console = Console()

LETTER = typer.Argument(min=0, max=2**63 - 1, help="As `actorhub dead list` shows it.")
NO_CONTROL = "control does not answer; is a node running? start one with `actorhub node MODULE`"
READING = 300.0  # seconds that a look at the dead letters may take
JOURNAL = 60.0  # and one at a journal
SHOWN = 2000  # bytes of a body that is no envelope

Url = Annotated[str | None, typer.Option(help="The broker; by default ACTORHUB_URL.")]
Namespace = Annotated[str | None, typer.Option(help="By default ACTORHUB_NAMESPACE, or 'default'.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Runs a command; known errors end it with their message and code 1."""
    sys.path.insert(0, "")  # modules of the current directory, as `python -m` finds them
    try:
        app()
    except (ActorHubError, ImportError, ValidationError) as exc:
        fail(f"{type(exc).__name__}: {exc}")


def fail(message: str) -> NoReturn:
    Console(stderr=True).print(f"[bold red]error[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise SystemExit(1)


def _settings(url: str | None, namespace: str | None, **more: Any) -> Settings:
    given: dict[str, Any] = {"url": url, "namespace": namespace, **more}
    return Settings(**{name: value for name, value in given.items() if value is not None})


def _pairs(what: str, texts: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            fail(f"{what} {text!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs


@app.command()
def node(
    modules: Annotated[list[str] | None, typer.Argument(help="Modules whose actors this node may run.")] = None,
    url: Url = None,
    namespace: Namespace = None,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes.")] = 2,
    slots: Annotated[
        int | None, typer.Option(min=0, help="Processes for tasks; by default as many as workers.")
    ] = None,
    resource: Annotated[list[str] | None, typer.Option(help="NAME=AMOUNT; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    id: Annotated[str | None, typer.Option(help="The node's id; by default its host name and chance.")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json.")] = None,
    with_parent: Annotated[bool, typer.Option(hidden=True, help="End when standard input does.")] = False,
) -> None:
    """Run a node: an agent and its worker processes, until SIGTERM, which drains."""
    settings = _settings(url, namespace, log_format=log_format)
    try:
        resources = {name: float(value) for name, value in _pairs("--resource", resource or []).items()}
    except ValueError as exc:
        fail(f"--resource takes NAME=AMOUNT with a number: {exc}")
    given: dict[str, Any] = {"node_id": id} if id else {}
    config = NodeConfig(
        modules=modules or [],
        workers=workers,
        slots=slots,
        resources=resources,
        labels=_pairs("--label", label or []),
        **given,
    )
    logs.configure(settings.log_format, settings.log_level, node=config.node_id)
    asyncio.run(run(config, settings, with_parent=with_parent))


@app.command()
def dev(
    modules: Annotated[list[str] | None, typer.Argument(help="Modules whose actors the node may run.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    rabbitmq: Annotated[
        bool, typer.Option("--rabbitmq", help="On a private RabbitMQ, not on the embedded broker.")
    ] = False,
) -> None:
    """A broker, control and a node with worker processes in one command, until Ctrl-C. For development: nothing is kept."""

    async def run_it() -> None:
        settings = Settings().model_copy(update={"url": None})
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        broker: BrokerChoice = "rabbitmq" if rabbitmq else "embedded"
        async with Hub.local(workers=workers, broker=broker, modules=modules or [], settings=settings) as hub:
            known = hub.settings.to_environment()
            names = ("ACTORHUB_URL", "ACTORHUB_SECRET", "ACTORHUB_PREFIX")
            exports = " ".join(f"{name}='{known[name]}'" for name in names)
            sys.stdout.write(f"ready; in another shell:\n  export {exports}\n")
            sys.stdout.flush()
            await stop.wait()

    asyncio.run(run_it())


def _look(
    settings: Settings, look: Callable[[Hub], Awaitable[Any]], timeout: float = 10.0, late: str = NO_CONTROL
) -> Any:
    if settings.url is None:
        fail("no broker is configured; set ACTORHUB_URL, or give --url")

    async def within() -> Any:
        async with Hub(settings=settings) as hub, asyncio.timeout(timeout):
            return await look(hub)

    logs.configure(settings.log_format, "ERROR")
    try:
        return asyncio.run(within())
    except TimeoutError:
        fail(late)


def _print_json(value: Any) -> None:
    rows = (
        [row.model_dump(mode="json") if isinstance(row, BaseModel) else row for row in value]
        if isinstance(value, list)
        else value
    )
    sys.stdout.write(json.dumps(rows, indent=2) + "\n")


@app.command()
def status(url: Url = None, json_: Json = False) -> None:
    """The nodes and their workers. Ends with code 1 where there is no node with a worker."""

    async def look(hub: Hub) -> tuple[str, list[NodeInfo]]:
        return hub.broker, await hub.nodes()

    broker, nodes = _look(_settings(url, None), look)
    if json_:
        _print_json(nodes)
    else:
        kept = "; it keeps everything in memory, and nothing on disk" if "embedded" in broker else ""
        console.print(f"broker: {broker}{kept}", highlight=False, soft_wrap=True)
        table = Table("node", "host", "pid", "workers", "actors", "labels", "resources")
        for row in nodes:
            workers = ", ".join(f"{worker.id} (pid {worker.pid})" for worker in row.workers)
            hosted = sum(len(worker.actors) for worker in row.workers)
            table.add_row(
                row.id, row.host, str(row.pid), workers, str(hosted), _words(row.labels), _words(row.resources_free)
            )
        console.print(table)
    if not any(row.workers for row in nodes):
        raise SystemExit(1)


def _words(pairs: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in pairs.items())


@app.command()
def actors(
    url: Url = None,
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, typer.Option("--all", help="Of every namespace.")] = False,
    json_: Json = False,
) -> None:
    """The actors, living and lately dead."""
    rows = _look(_settings(url, namespace), lambda hub: hub.actors(all_namespaces=all_namespaces))
    if json_:
        _print_json(rows)
        return
    table = Table("id", "name", "class", "state", "node", "worker", "restarts", "last error")
    for row in rows:
        error = (row.last_error or "").strip().splitlines()
        table.add_row(
            row.id,
            escape(row.name or ""),
            escape(row.class_name),
            row.state,
            row.node or "",
            row.worker or "",
            str(row.restarts),
            escape(error[-1]) if error else "",
        )
    console.print(table)


@app.command()
def tasks(
    url: Url = None,
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, typer.Option("--all", help="Of every namespace.")] = False,
    json_: Json = False,
) -> None:
    """The task queues, what waits in them, and how many slots take from them."""
    rows = _look(_settings(url, namespace), lambda hub: hub.tasks(all_namespaces=all_namespaces))
    if json_:
        _print_json(rows)
        return
    table = Table("namespace", "queue", "asks for", "waiting messages", "slots", "needs")
    for row in rows:
        asks = str(row.needs) if row.needs is not None else ""
        table.add_row(row.namespace, row.queue, asks, str(row.waiting), str(row.slots), row.waits_for)
    console.print(table)


@app.command()
def groups(
    url: Url = None,
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, typer.Option("--all", help="Of every namespace.")] = False,
    json_: Json = False,
) -> None:
    """The placement groups: where their bundles are, and what those wait for that are not reserved."""
    rows = _look(_settings(url, namespace), lambda hub: hub.groups(all_namespaces=all_namespaces))
    if json_:
        _print_json(rows)
        return
    table = Table("id", "name", "strategy", "bundles", "waits for")
    for row in rows:
        bundles = ", ".join(f"{_words(bundle.resources)} on {bundle.node or '?'}" for bundle in row.bundles)
        table.add_row(row.id, escape(row.name or ""), row.strategy, bundles, escape(row.waits_for))
    console.print(table)


@app.command()
def drain(
    node: Annotated[str, typer.Argument(help="The node's id, as `actorhub status` shows it.")],
    url: Url = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for its end.")] = 60.0,
) -> None:
    """Have a node end in order: its actors go elsewhere, what runs may end. Ends with code 1 where it is still there."""

    async def end(hub: Hub) -> bool:
        await hub.drain(node)
        until = asyncio.get_running_loop().time() + wait
        while any(each.id == node for each in await hub.nodes()):
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(0.1)
        return True

    if not _look(_settings(url, None), end, wait + 30.0):
        fail(
            f"node {node} has not ended in {wait:g} s; it does when what runs on it has ended, or its drain_timeout is over"
        )


@app.command()
def call(
    name: Annotated[str, typer.Argument(help="The actor's name.")],
    method: str,
    arguments: Annotated[str, typer.Argument(help="A JSON object of arguments, such as '{\"amount\": 5}'.")] = "{}",
    url: Url = None,
    namespace: Namespace = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 30.0,
) -> None:
    """Call a method of a named actor and print its answer as JSON. The class need not be importable here."""
    try:
        known = json.loads(arguments)
    except json.JSONDecodeError as exc:
        fail(f"the arguments {arguments!r} are not JSON: {exc}")
    if not isinstance(known, dict):
        fail(f"the arguments {arguments!r} are not a JSON object; write them as '{{\"amount\": 5}}'")
    settings = _settings(url, namespace)
    try:
        answer = _look(settings, lambda hub: hub.call_by_name(name, method, known), timeout=timeout)
    except ActorHubError:
        raise
    except Exception as exc:  # the actor's own
        fail("\n".join([f"{type(exc).__name__}: {exc}", *getattr(exc, "__notes__", ())]))
    _print_json(answer)


@dead_app.command("list")
def dead_list(
    url: Url = None,
    namespace: Namespace = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    after: Annotated[
        int | None, typer.Option(min=0, max=2**62, help="Only those behind the letter of this id.")
    ] = None,
    json_: Json = False,
) -> None:
    """The oldest dead letters, one a line."""
    letters: list[DeadLetter] = _dead(url, namespace, lambda hub: hub.dead(limit, after=after))
    if json_:
        _print_json(letters)
        return
    table = Table("id", "time", "reason", "actor or queue", "method", "error", "attempts", "replayed")
    for letter in letters:
        table.add_row(
            str(letter.id),
            _moment(letter.time),
            letter.reason,
            escape(letter.actor or letter.queue),
            escape(letter.method),
            escape(letter.error),
            str(letter.attempts or ""),
            _moment(letter.replayed),
        )
    console.print(table)


@dead_app.command("show")
def dead_show(id: Annotated[int, LETTER], url: Url = None, namespace: Namespace = None, json_: Json = False) -> None:
    """One dead letter with its arguments and its traceback."""
    letter: DeadLetter = _dead(url, namespace, lambda hub: hub.dead_letter(id))
    if json_:
        _print_json(letter.model_dump(mode="json"))
        return
    fields = {
        "id": letter.id,
        "time": _moment(letter.time),
        "reason": letter.reason,
        "queue": letter.queue,
        "actor": letter.actor,
        "method": letter.method,
        "call": letter.call,
        "error": letter.error,
        "exception": letter.exception,
        "attempts": letter.attempts or "",
        "replayed": _moment(letter.replayed),
        "arguments": "" if letter.arguments is None else json.dumps(letter.arguments, indent=2, ensure_ascii=False),
        "body": repr(letter.body[:SHOWN]) if letter.arguments is None else f"{len(letter.body)} bytes",
    }
    lines = [f"{name:<10} {value}".rstrip() for name, value in fields.items()]
    console.print("\n".join([*lines, letter.traceback]), highlight=False, markup=False, soft_wrap=True)


@dead_app.command("replay")
def dead_replay(
    ids: Annotated[list[int], LETTER],
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """Send the messages of dead letters again. Ends with code 1 where one could not be sent."""

    async def replay(hub: Hub) -> list[DeadLetter | ActorHubError]:
        return [await _replayed(hub, id) for id in ids]

    done: list[DeadLetter | ActorHubError] = _dead(url, namespace, replay)
    for one in done:
        if isinstance(one, DeadLetter):
            what = f"{one.id}: {one.method or one.reason} was sent again to {one.queue}"
            console.print(what, highlight=False, markup=False, soft_wrap=True)
    errors = [f"{type(one).__name__}: {one}" for one in done if isinstance(one, ActorHubError)]
    if errors:
        fail("\n".join(errors))


async def _replayed(hub: Hub, id: int) -> DeadLetter | ActorHubError:
    try:
        return await hub.replay(id)
    except ActorHubError as exc:
        return exc


@dead_app.command("purge")
def dead_purge(
    url: Url = None,
    namespace: Namespace = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Drop all dead letters of the namespace."""
    where = _settings(url, namespace).namespace
    if not yes:
        typer.confirm(f"Drop all dead letters of namespace {where!r}?", abort=True)
    count: int = _dead(url, namespace, lambda hub: hub.purge_dead())
    console.print(f"{count} dead letters of namespace {where!r} were dropped", highlight=False, markup=False)


def _dead(url: str | None, namespace: str | None, look: Callable[[Hub], Awaitable[Any]]) -> Any:
    late = f"the broker did not answer in {READING:.0f} s; does it have an alarm? see `rabbitmqctl status`"
    return _look(_settings(url, namespace), look, READING, late)


@app.command()
def explain(
    actor: Annotated[str, typer.Argument(help="An actor's name or id.")],
    url: Url = None,
    namespace: Namespace = None,
    json_: Json = False,
) -> None:
    """Why an actor does not answer: where it is, what it does, what waits for it."""
    explanation: Explanation = _look(_settings(url, namespace), lambda hub: hub.explain(actor), JOURNAL)
    if json_:
        _print_json(explanation.model_dump(mode="json"))
    else:
        console.print(explanation.text, highlight=False, markup=False, soft_wrap=True)


@app.command()
def history(
    actor: Annotated[str, typer.Argument(help="A durable actor's name or id.")],
    url: Url = None,
    namespace: Namespace = None,
    at: Annotated[int | None, typer.Option(min=1, help="The state after the commit of this number instead.")] = None,
    key: Annotated[str | None, typer.Option(help="With --at: which instance of a keyed class.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many; the last ones.")] = 100,
    json_: Json = False,
) -> None:
    """What a durable actor has done: the records of its journal, one a line, those that do not count among them."""
    settings, late = _settings(url, namespace), f"not read in {JOURNAL:.0f} s; where no node runs, give the actor's id"
    if at is not None:
        state: ActorState = _look(settings, lambda hub: hub.state_at(actor, at, key=key), JOURNAL, late)
        _print_json(state.model_dump(mode="json") if json_ else state.value)
        return
    entries: list[HistoryEntry] = _look(settings, lambda hub: hub.history(actor, limit=limit), JOURNAL, late)
    if json_:
        _print_json(entries)
        return
    table = Table("commit", "epoch", "owner", "time", "methods", "answers", "tells", "dead", "state", "image", "")
    for entry in entries:
        counted = [str(count or "") for count in (entry.answers, entry.tells, entry.letters)]
        table.add_row(
            str(entry.number or ""),
            str(entry.epoch or ""),
            escape(entry.owner),
            _moment(entry.time),
            escape(_counted(entry.methods)),
            *counted,
            "" if entry.state_size is None else f"{entry.state_size:,}{' patch' if entry.patch else ''}",
            "image" if entry.image else "",
            ("takes over" if entry.kind == "epoch" else "")
            if entry.verdict == "counts"
            else f"{entry.verdict}: skipped",
        )
    console.print(table)


def _counted(methods: tuple[str, ...]) -> str:
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in Counter(methods).items())


def _moment(when: float | None) -> str:
    """Local time; nothing where it is not known."""
    return datetime.fromtimestamp(when).astimezone().isoformat(" ", "seconds") if when else ""


@app.command()
def bench(url: Url = None, seconds: Annotated[float, typer.Option(help="For each measurement.")] = 2.0) -> None:
    """Measure asks and tells against an actor of this cluster. For figures against a baseline see `make bench`."""
    rates = _look(_settings(url, None), lambda hub: measure(hub, seconds), timeout=30.0 + 8 * seconds)
    table = Table("work", "outstanding", "a second")
    for rate in rates:
        table.add_row(rate.work, str(rate.outstanding), f"{rate.a_second:,.0f}")
    console.print(table)
