"""Prometheus metrics of a cluster: its queues, its demand and its nodes, for operators and for autoscalers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from actorhub.control_api.info import Demand, NodeInfo, QueueInfo
from actorhub.errors import ActorHubError
from actorhub.hub.hub import Hub

log = logging.getLogger(__name__)

# together less than the 10 seconds that Prometheus waits by default
CONTROL_TIMEOUT_SECONDS = 4.0
BROKER_TIMEOUT_SECONDS = 2.0

Values = Iterable[tuple[tuple[str, ...], float]]
"""Samples of a gauge, each with the values of its labels."""


@contextmanager
def serve_metrics(hub: Hub, host: str, port: int) -> Generator[int]:
    """Serve scrapes over HTTP inside the `with` block. Each scrape asks this hub, and opens no connection of its own.

    Args:
        hub: an open hub.
        host: address to listen on.
        port: port to listen on; 0 for a free one.

    Yields:
        The port.

    Raises:
        ActorHubError: the address is in use, or is not one of this machine.
    """
    registry = CollectorRegistry()
    registry.register(ClusterCollector(hub))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as exc:
        raise ActorHubError(f"cannot listen at {host}, port {port}: {exc}; choose another one") from exc
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class ClusterCollector(Collector):
    """Metrics of a cluster, read through a hub. Created on the hub's event loop, and read from any other thread.

    While control does not reply, `actorhub_up` is 0, and the only other metrics are the broker's counts of the task queues that
    control has named before.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._queues: list[QueueInfo] = []

    def collect(self) -> Iterable[Metric]:
        return asyncio.run_coroutine_threadsafe(self._ask(), self._loop).result()

    async def _ask(self) -> list[Metric]:
        try:
            async with asyncio.timeout(CONTROL_TIMEOUT_SECONDS):
                if await self._has_control():
                    demand, nodes = await self._hub.demand(), await self._hub.nodes()
                    self._queues = await self._hub.tasks(all_namespaces=True)
                    return [_up(True), *of_demand(demand, nodes), *of_queues(self._queues), *of_nodes(nodes)]
        except (TimeoutError, ActorHubError) as exc:
            log.debug("control does not answer", exc_info=exc)
        return [_up(False), *of_queues(await self._counted())]

    async def _has_control(self) -> bool:
        """True if control's queue has a consumer; a question would wait there otherwise."""
        session = self._hub._open_session()
        state = await (await session.live_link()).state(session.names.control)
        return state is not None and state.consumers > 0

    async def _counted(self) -> list[QueueInfo]:
        found: list[QueueInfo] = []
        try:
            async with asyncio.timeout(BROKER_TIMEOUT_SECONDS):
                session = self._hub._open_session()
                link = await session.live_link()
                for info in self._queues:
                    name = session.names.task(info.namespace, info.queue)
                    state = await link.state(name + (info.needs.suffix if info.needs is not None else ""))
                    if state is not None:
                        found.append(info.model_copy(update={"waiting": state.messages, "slots": state.consumers}))
        except (TimeoutError, ActorHubError) as exc:
            log.debug("the broker does not answer", exc_info=exc)
        return found


def of_demand(demand: Iterable[Demand], nodes: Iterable[NodeInfo]) -> list[Metric]:
    """Demand by resource. A resource that a node has and nothing waits for is 0."""
    demand = list(demand)
    idle = [((name,), 0.0) for node in nodes for name in node.resources_total]
    wanted = [((name,), amount * each.count) for each in demand for name, amount in each.resources.items()]
    return [
        _gauge(
            "actorhub_waiting",
            "Actors, placement groups and slots for tasks that wait for a place, by what each of them asks for.",
            ("kind", "resources", "labels", "node"),
            (
                ((each.kind, _amounts(each.resources), _pairs(each.labels), each.node or ""), each.count)
                for each in demand
            ),
        ),
        _gauge(
            "actorhub_waiting_resources",
            "What all that wait for a place ask for together.",
            ("resource",),
            [*idle, *wanted],
        ),
    ]


def of_queues(queues: Iterable[QueueInfo]) -> list[Metric]:
    queues, labels = list(queues), ("namespace", "queue", "asks_for")
    keys = [(each.namespace, each.queue, str(each.needs) if each.needs is not None else "") for each in queues]
    waiting = [each.waiting for each in queues]
    slots = [each.slots for each in queues]
    return [
        _gauge(
            "actorhub_task_messages",
            "Messages of tasks that no slot has taken.",
            labels,
            zip(keys, waiting, strict=True),
        ),
        _gauge("actorhub_task_slots", "Slots that take from the task queue.", labels, zip(keys, slots, strict=True)),
    ]


def of_nodes(nodes: Iterable[NodeInfo]) -> list[Metric]:
    nodes, labels = list(nodes), ("node", "resource")
    total = [((node.id, name), amount) for node in nodes for name, amount in node.resources_total.items()]
    free = [((node.id, name), node.resources_free.get(name, 0.0)) for node in nodes for name in node.resources_total]
    return [
        _gauge("actorhub_nodes", "Nodes that live.", (), [((), len(nodes))]),
        _gauge("actorhub_node_resources", "What the node has.", labels, total),
        _gauge("actorhub_node_resources_free", "What of it is not reserved.", labels, free),
    ]


def _up(is_up: bool) -> Metric:
    return _gauge("actorhub_up", "1 where control answers, and all figures are there; else 0.", (), [((), is_up)])


def _gauge(name: str, about: str, labels: tuple[str, ...], values: Values) -> Metric:
    """Gauge of the samples. Values with the same labels are added, since Prometheus refuses duplicates."""
    total: dict[tuple[str, ...], float] = {}
    for key, value in values:
        total[key] = total.get(key, 0.0) + value
    gauge = GaugeMetricFamily(name, about, labels=labels)
    for key, value in total.items():
        gauge.add_metric(key, value)
    return gauge


def _amounts(resources: Mapping[str, float]) -> str:
    return _pairs({name: f"{amount:.16g}" for name, amount in resources.items()})


def _pairs(pairs: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(pairs.items()))
