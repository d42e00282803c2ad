"""Commands that look at a cluster and change nothing."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from actorhub.cli.common import (
    AllNamespaces,
    Columns,
    Json,
    Namespace,
    Url,
    console,
    moment,
    print_json,
    print_rows,
    query,
    settings_from,
    words,
)
from actorhub.control_api.info import ActorInfo, Demand, GroupInfo, NodeInfo, QueueInfo
from actorhub.durable.history import HistoryEntry
from actorhub.hub.hub import Hub

JOURNAL_TIMEOUT_SECONDS = 60.0


def status(url: Url = None, json_: Json = False) -> None:
    """List nodes and their workers. Exits with code 1 if no node has a worker."""

    async def both(hub: Hub) -> tuple[str, list[NodeInfo]]:
        return hub.broker, await hub.nodes()

    broker, nodes = query(settings_from(url, None), both)
    if not json_:
        kept = "; it keeps everything in memory, and nothing on disk" if "embedded" in broker else ""
        console.print(f"broker: {broker}{kept}", highlight=False, soft_wrap=True)
    columns: Columns[NodeInfo] = {
        "node": lambda node: node.id,
        "host": lambda node: node.host,
        "pid": lambda node: node.pid,
        "workers": lambda node: ", ".join(f"{worker.id} (pid {worker.pid})" for worker in node.workers),
        "actors": lambda node: sum(len(worker.actors) for worker in node.workers),
        "labels": lambda node: words(node.labels),
        "resources": lambda node: words(node.resources_free),
    }
    print_rows(nodes, columns, as_json=json_)
    if not any(row.workers for row in nodes):
        raise SystemExit(1)


def actors(
    url: Url = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    json_: Json = False,
) -> None:
    """List actors, running and recently dead."""
    rows = query(settings_from(url, namespace), lambda hub: hub.actors(all_namespaces=all_namespaces))
    columns: Columns[ActorInfo] = {
        "id": lambda actor: actor.id,
        "name": lambda actor: actor.name,
        "class": lambda actor: actor.class_name,
        "state": lambda actor: actor.state,
        "node": lambda actor: actor.node,
        "worker": lambda actor: actor.worker,
        "restarts": lambda actor: actor.restarts,
        "last error": lambda actor: _last_line(actor.last_error),
    }
    print_rows(rows, columns, as_json=json_)


def tasks(
    url: Url = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    json_: Json = False,
) -> None:
    """List task queues: waiting tasks, and slots that consume them."""
    rows = query(settings_from(url, namespace), lambda hub: hub.tasks(all_namespaces=all_namespaces))
    columns: Columns[QueueInfo] = {
        "namespace": lambda queue: queue.namespace,
        "queue": lambda queue: queue.queue,
        "requires": lambda queue: queue.needs,
        "waiting messages": lambda queue: queue.waiting,
        "slots": lambda queue: queue.slots,
        "waits for": lambda queue: queue.waits_for,
    }
    print_rows(rows, columns, as_json=json_)


def groups(
    url: Url = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    json_: Json = False,
) -> None:
    """List placement groups: the node of each bundle, and what pending groups wait for."""
    rows = query(settings_from(url, namespace), lambda hub: hub.groups(all_namespaces=all_namespaces))
    columns: Columns[GroupInfo] = {
        "id": lambda group: group.id,
        "name": lambda group: group.name,
        "strategy": lambda group: group.strategy,
        "bundles": lambda group: ", ".join(
            f"{words(bundle.resources)} on {bundle.node or '?'}" for bundle in group.bundles
        ),
        "waits for": lambda group: group.waits_for,
    }
    print_rows(rows, columns, as_json=json_)


def demand(url: Url = None, json_: Json = False) -> None:
    """List unplaced actors, tasks and bundles of the whole cluster, by the resources that they request."""
    rows = query(settings_from(url, None), lambda hub: hub.demand())
    columns: Columns[Demand] = {
        "kind": lambda demand: demand.kind,
        "resources": lambda demand: words(demand.resources),
        "labels": lambda demand: words(demand.labels),
        "node": lambda demand: demand.node,
        "count": lambda demand: demand.count,
    }
    print_rows(rows, columns, as_json=json_)


def explain(
    actor: Annotated[str, typer.Argument(help="An actor's name or id.")],
    url: Url = None,
    namespace: Namespace = None,
    json_: Json = False,
) -> None:
    """Explain why an actor does not reply: its worker, its running calls, its waiting messages."""
    explanation = query(settings_from(url, namespace), lambda hub: hub.explain(actor), JOURNAL_TIMEOUT_SECONDS)
    if json_:
        print_json(explanation.model_dump(mode="json"))
    else:
        console.print(explanation.text, highlight=False, markup=False, soft_wrap=True)


def history(
    actor: Annotated[str, typer.Argument(help="A durable actor's name or id.")],
    url: Url = None,
    namespace: Namespace = None,
    at: Annotated[
        int | None, typer.Option(min=1, help="Show the state after the commit with this number instead.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="With --at: key of the instance of a keyed class.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of records, counted from the newest.")] = 100,
    json_: Json = False,
) -> None:
    """Show the journal of a durable actor, one record a line. Records that do not count are marked."""
    settings, late = (
        settings_from(url, namespace),
        f"the journal was not read in {JOURNAL_TIMEOUT_SECONDS:.0f} s; if no node runs, give the actor's id, not its name",
    )
    if at is not None:
        state = query(settings, lambda hub: hub.state_at(actor, at, key=key), JOURNAL_TIMEOUT_SECONDS, late)
        print_json(state.model_dump(mode="json") if json_ else state.value)
        return
    entries = query(settings, lambda hub: hub.history(actor, limit=limit), JOURNAL_TIMEOUT_SECONDS, late)
    columns: Columns[HistoryEntry] = {
        "commit": lambda entry: entry.number or None,
        "epoch": lambda entry: entry.epoch or None,
        "owner": lambda entry: entry.owner,
        "time": lambda entry: moment(entry.time),
        "methods": lambda entry: _counted(entry.methods),
        "replies": lambda entry: entry.answers or None,
        "tells": lambda entry: entry.tells or None,
        "dead": lambda entry: entry.letters or None,
        "state": _state_size,
        "checkpoint": lambda entry: "checkpoint" if entry.image else None,
        "": _standing,
    }
    print_rows(entries, columns, as_json=json_)


def _counted(methods: tuple[str, ...]) -> str:
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in Counter(methods).items())


def _last_line(text: str | None) -> str | None:
    lines = (text or "").strip().splitlines()
    return lines[-1] if lines else None


def _state_size(entry: HistoryEntry) -> str | None:
    return None if entry.state_size is None else f"{entry.state_size:,}{' patch' if entry.patch else ''}"


def _standing(entry: HistoryEntry) -> str | None:
    if entry.verdict != "counts":
        return f"{entry.verdict}: skipped"
    return "takes over" if entry.kind == "epoch" else None
