"""Commands that look at a cluster and change nothing."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from actorhub.cli.common import (
    AllNamespaces,
    Json,
    Namespace,
    Url,
    console,
    look,
    moment,
    print_json,
    settings_from,
    words,
)
from actorhub.control.infos import NodeInfo
from actorhub.explanation import Explanation
from actorhub.history import ActorState, HistoryEntry
from actorhub.hub import Hub

JOURNAL = 60.0  # seconds that a look at a journal may take


def status(url: Url = None, json_: Json = False) -> None:
    """The nodes and their workers. Ends with code 1 where there is no node with a worker."""

    async def both(hub: Hub) -> tuple[str, list[NodeInfo]]:
        return hub.broker, await hub.nodes()

    broker, nodes = look(settings_from(url, None), both)
    if json_:
        print_json(nodes)
    else:
        kept = "; it keeps everything in memory, and nothing on disk" if "embedded" in broker else ""
        console.print(f"broker: {broker}{kept}", highlight=False, soft_wrap=True)
        table = Table("node", "host", "pid", "workers", "actors", "labels", "resources")
        for row in nodes:
            workers = ", ".join(f"{worker.id} (pid {worker.pid})" for worker in row.workers)
            hosted = sum(len(worker.actors) for worker in row.workers)
            table.add_row(
                row.id, row.host, str(row.pid), workers, str(hosted), words(row.labels), words(row.resources_free)
            )
        console.print(table)
    if not any(row.workers for row in nodes):
        raise SystemExit(1)


def actors(
    url: Url = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    json_: Json = False,
) -> None:
    """The actors, living and lately dead."""
    rows = look(settings_from(url, namespace), lambda hub: hub.actors(all_namespaces=all_namespaces))
    if json_:
        print_json(rows)
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


def tasks(
    url: Url = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    json_: Json = False,
) -> None:
    """The task queues, what waits in them, and how many slots take from them."""
    rows = look(settings_from(url, namespace), lambda hub: hub.tasks(all_namespaces=all_namespaces))
    if json_:
        print_json(rows)
        return
    table = Table("namespace", "queue", "asks for", "waiting messages", "slots", "needs")
    for row in rows:
        asks = str(row.needs) if row.needs is not None else ""
        table.add_row(row.namespace, row.queue, asks, str(row.waiting), str(row.slots), row.waits_for)
    console.print(table)


def groups(
    url: Url = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    json_: Json = False,
) -> None:
    """The placement groups: where their bundles are, and what those wait for that are not reserved."""
    rows = look(settings_from(url, namespace), lambda hub: hub.groups(all_namespaces=all_namespaces))
    if json_:
        print_json(rows)
        return
    table = Table("id", "name", "strategy", "bundles", "waits for")
    for row in rows:
        bundles = ", ".join(f"{words(bundle.resources)} on {bundle.node or '?'}" for bundle in row.bundles)
        table.add_row(row.id, escape(row.name or ""), row.strategy, bundles, escape(row.waits_for))
    console.print(table)


def demand(url: Url = None, json_: Json = False) -> None:
    """What waits for a place in the whole cluster, by what it asks for: more nodes that have it would let it begin."""
    rows = look(settings_from(url, None), lambda hub: hub.demand())
    if json_:
        print_json(rows)
        return
    table = Table("kind", "resources", "labels", "node", "count")
    for row in rows:
        table.add_row(row.kind, words(row.resources), words(row.labels), row.node or "", str(row.count))
    console.print(table)


def explain(
    actor: Annotated[str, typer.Argument(help="An actor's name or id.")],
    url: Url = None,
    namespace: Namespace = None,
    json_: Json = False,
) -> None:
    """Why an actor does not answer: where it is, what it does, what waits for it."""
    explanation: Explanation = look(settings_from(url, namespace), lambda hub: hub.explain(actor), JOURNAL)
    if json_:
        print_json(explanation.model_dump(mode="json"))
    else:
        console.print(explanation.text, highlight=False, markup=False, soft_wrap=True)


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
    settings, late = (
        settings_from(url, namespace),
        f"not read in {JOURNAL:.0f} s; where no node runs, give the actor's id",
    )
    if at is not None:
        state: ActorState = look(settings, lambda hub: hub.state_at(actor, at, key=key), JOURNAL, late)
        print_json(state.model_dump(mode="json") if json_ else state.value)
        return
    entries: list[HistoryEntry] = look(settings, lambda hub: hub.history(actor, limit=limit), JOURNAL, late)
    if json_:
        print_json(entries)
        return
    table = Table("commit", "epoch", "owner", "time", "methods", "answers", "tells", "dead", "state", "image", "")
    for entry in entries:
        counted = [str(count or "") for count in (entry.answers, entry.tells, entry.letters)]
        table.add_row(
            str(entry.number or ""),
            str(entry.epoch or ""),
            escape(entry.owner),
            moment(entry.time),
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
