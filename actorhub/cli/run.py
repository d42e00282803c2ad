"""Commands that run nodes, a development cluster and a benchmark, call actors and drain nodes."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Annotated, Any

import typer

from actorhub.cli.benchmark import Rate, measure
from actorhub.cli.common import NO_BROKER, Columns, Namespace, Url, fail, print_json, print_rows, query, settings_from
from actorhub.cluster import BrokerChoice
from actorhub.core import logging_setup
from actorhub.core.resources import checked
from actorhub.errors import ActorHubError
from actorhub.hub.hub import Hub
from actorhub.node.agent import NodeConfig, run
from actorhub.settings import Settings


def node(
    modules: Annotated[
        list[str] | None, typer.Argument(help="Modules with the actors and tasks that this node runs.")
    ] = None,
    url: Url = None,
    namespace: Namespace = None,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes.")] = 2,
    slots: Annotated[
        int | None, typer.Option(min=0, help="Task slots, a process each; by default as many as workers.")
    ] = None,
    resource: Annotated[
        list[str] | None, typer.Option(help="Resource of the node, as NAME=AMOUNT; may be repeated.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="Label of the node, as NAME=VALUE; may be repeated.")] = None,
    id: Annotated[
        str | None, typer.Option(help="The node's id; by default its host name and random characters.")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="Format of log lines: text or json.")] = None,
    with_parent: Annotated[bool, typer.Option(hidden=True, help="End when standard input does.")] = False,
) -> None:
    """Run a node: an agent and its worker processes. SIGTERM drains it."""
    settings = settings_from(url, namespace, log_format=log_format)
    try:
        resources = checked({name: float(value) for name, value in _pairs("--resource", resource or []).items()})
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
    logging_setup.configure_logging(settings.log_format, settings.log_level, node=config.node_id)
    asyncio.run(run(config, settings, with_parent=with_parent))


def _pairs(what: str, texts: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            fail(f"{what} {text!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs


def dev(
    modules: Annotated[
        list[str] | None, typer.Argument(help="Modules with the actors and tasks that the node runs.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
    rabbitmq: Annotated[
        bool, typer.Option("--rabbitmq", help="Use a private RabbitMQ in place of the embedded broker.")
    ] = False,
) -> None:
    """Start a broker and a node with worker processes, until Ctrl-C. For development: no data is kept."""

    async def run_it() -> None:
        settings = Settings().model_copy(update={"url": None})
        stop = _stop()
        broker: BrokerChoice = "rabbitmq" if rabbitmq else "embedded"
        async with Hub.local(workers=workers, broker=broker, modules=modules or [], settings=settings) as hub:
            known = hub.settings.to_environment()
            names = ("ACTORHUB_URL", "ACTORHUB_SECRET", "ACTORHUB_PREFIX")
            exports = " ".join(f"{name}='{known[name]}'" for name in names)
            sys.stdout.write(f"ready; in another shell:\n  export {exports}\n")
            sys.stdout.flush()
            await stop.wait()

    asyncio.run(run_it())


def metrics(
    url: Url = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 9464,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve metrics of the cluster to Prometheus, until SIGTERM. One process is enough for a cluster."""
    try:
        from actorhub.cli.prometheus import (
            serve_metrics,  # brings along what only this command needs, and may not be installed
        )
    except ModuleNotFoundError as exc:
        fail(f"{exc}; pip install 'actorhub-mq[metrics]'")
    settings = settings_from(url, None)
    if settings.url is None:
        fail(NO_BROKER)

    async def run_it() -> None:
        stop = _stop()
        async with Hub(settings=settings) as hub:
            with serve_metrics(hub, host, port) as taken:
                where = f"[{host}]" if ":" in host else host
                sys.stdout.write(f"metrics at http://{where}:{taken}/metrics\n")
                sys.stdout.flush()
                await stop.wait()

    logging_setup.configure_logging(settings.log_format, settings.log_level)
    asyncio.run(run_it())


def _stop() -> asyncio.Event:
    """Event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def drain(
    node: Annotated[str, typer.Argument(help="The node's id, as `actorhub status` shows it.")],
    url: Url = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until the node has ended.")] = 60.0,
) -> None:
    """Drain a node: its actors move, running tasks may finish. Exits with code 1 if the node has not ended in time."""

    async def end(hub: Hub) -> bool:
        await hub.drain(node)
        until = asyncio.get_running_loop().time() + wait
        while any(each.id == node for each in await hub.nodes()):
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(0.1)
        return True

    if not query(settings_from(url, None), end, wait + 30.0):
        fail(f"node {node} has not ended in {wait:g} s; its calls and tasks have until drain_timeout to finish")


def bench(url: Url = None, seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 2.0) -> None:
    """Measure asks and tells against an actor of this cluster. For figures against a baseline see `make bench`."""
    rates = query(settings_from(url, None), lambda hub: measure(hub, seconds), timeout=30.0 + 8 * seconds)
    columns: Columns[Rate] = {
        "work": lambda rate: rate.work,
        "outstanding": lambda rate: rate.outstanding,
        "per second": lambda rate: f"{rate.per_second:,.0f}",
    }
    print_rows(rates, columns)


def call(
    name: Annotated[str, typer.Argument(help="The actor's name.")],
    method: str,
    arguments: Annotated[str, typer.Argument(help="A JSON object of arguments, such as '{\"amount\": 5}'.")] = "{}",
    url: Url = None,
    namespace: Namespace = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the reply.")] = 30.0,
) -> None:
    """Call a method of a named actor and print its result as JSON. The class need not be importable here."""
    try:
        known = json.loads(arguments)
    except json.JSONDecodeError as exc:
        fail(f"the arguments {arguments!r} are not JSON: {exc}")
    if not isinstance(known, dict):
        fail(f"the arguments {arguments!r} are not a JSON object; write them as '{{\"amount\": 5}}'")
    settings = settings_from(url, namespace)
    try:
        answer = query(settings, lambda hub: hub.call_by_name(name, method, known), timeout=timeout)
    except ActorHubError:
        raise
    except Exception as exc:  # the actor's own
        fail("\n".join([f"{type(exc).__name__}: {exc}", *getattr(exc, "__notes__", ())]))
    print_json(answer)
