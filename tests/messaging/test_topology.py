"""The queues of a cluster keep the arguments that they were declared with: a broker refuses others for a queue that exists."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import actorhub
from actorhub.actors.spec import ActorOptions
from actorhub.broker import Queue
from actorhub.control_api.specs import SpawnSpec
from actorhub.core.addressing import QueueNames
from actorhub.messaging import topology
from actorhub_rabbitmq.capabilities import Capabilities

NAMES = QueueNames("ah")
DAY = 24 * 3600 * 1000
CLASSIC = {"x-queue-type": "classic", "x-consumer-timeout": DAY}
QUORUM = {"x-queue-type": "quorum", "x-consumer-timeout": DAY, "x-delivery-limit": -1}
SINGLE = {"x-single-active-consumer": True}
LIMIT = {"x-max-length": 7, "x-overflow": "reject-publish"}


def _stream(retention: int) -> dict[str, Any]:
    segment = retention // 4
    return {"x-queue-type": "stream", "x-max-length-bytes": retention, "x-stream-max-segment-size-bytes": segment}


def _rung(milliseconds: int) -> dict[str, Any]:
    to_due = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "ah.delay.due"}
    loses_none = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    return {**QUORUM, "x-message-ttl": milliseconds, **to_due, **loses_none}


@pytest.mark.parametrize(
    ("queue", "name", "arguments"),
    [
        (topology.reply_queue("r", 60.0), "r", {**CLASSIC, "x-expires": 60_000}),
        (topology.service_queue("s", 60.0), "s", {**CLASSIC, **SINGLE, "x-expires": 60_000}),
        (topology.actor_mailbox("a", None), "a", {**CLASSIC, **SINGLE}),
        (topology.actor_mailbox("a", 7), "a", {**CLASSIC, **SINGLE, **LIMIT}),
        (topology.durable_inbox("d"), "d", {**QUORUM, **SINGLE}),
        (topology.durable_inbox("d", 7), "d", {**QUORUM, **SINGLE, **LIMIT}),
        (topology.journal_stream("j", 4096), "j", _stream(4096)),
        (topology.task_queue("t"), "t", QUORUM),
        (topology.fan_in_queue("g"), "g", {**QUORUM, **SINGLE}),
        (topology.dead_letter_stream("l"), "l", _stream(1024**3)),
        (topology.delay_rung(NAMES, -4), "ah.delay.-4", _rung(62)),
        (topology.delay_rung(NAMES, 3), "ah.delay.3", _rung(8000)),
        (topology.due_queue(NAMES), "ah.delay.due", {**QUORUM, **SINGLE}),
    ],
    ids=lambda value: value.name if isinstance(value, Queue) else "",
)
def test_a_queue_is_declared_with_the_arguments_of_all_earlier_versions(
    queue: Queue, name: str, arguments: dict[str, Any]
) -> None:
    assert queue.name == name
    assert Capabilities.of("4.0.0").arguments(queue) == arguments


def test_a_plan_says_which_queues_its_actor_needs() -> None:
    plan = SpawnSpec(actor_id="a-1", namespace="n", class_name="app:A", options=ActorOptions(mailbox_limit=7))
    assert plan.queues(NAMES, 4096) == [topology.actor_mailbox("ah.n.actor.a-1", 7)]
    plan = plan.model_copy(update={"options": ActorOptions(durable=True, mailbox_limit=7)})
    assert plan.queues(NAMES, 4096) == [
        topology.journal_stream("ah.n.journal.a-1", 4096),
        topology.durable_inbox("ah.n.durable.a-1", 7),
    ]


def test_no_other_file_makes_a_queue() -> None:
    root = Path(actorhub.__file__).parent
    makers = {
        path.name
        for path in root.rglob("*.py")
        if path.relative_to(root).parts[0] != "testing"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Queue"
    }
    assert makers == {"topology.py"}
