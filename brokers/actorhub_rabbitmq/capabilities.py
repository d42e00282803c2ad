"""Features of a RabbitMQ server by its version: the only place that knows versions. Source: RabbitMQ's release notes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from actorhub.broker import Queue, QueueKind

MEBIBYTE = 1024 * 1024
# after which the broker takes an unacknowledged message back; the longest that a method may run
CONSUMER_TIMEOUT_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Capabilities:
    """The features of one server version."""

    version: tuple[int, int]

    @classmethod
    def of(cls, text: str) -> Capabilities:
        """The features of `server_properties["version"]`. An unreadable one counts as 3.10, the oldest supported."""
        found = re.match(r"(\d+)\.(\d+)", text)
        return cls((int(found[1]), int(found[2])) if found else (3, 10))

    @property
    def max_message(self) -> int:
        """Largest body in bytes: the default of `max_message_size`."""
        return 16 * MEBIBYTE if self.version >= (4, 0) else 128 * MEBIBYTE

    @property
    def priorities(self) -> int:
        """Priority levels of a quorum queue: two since 4.0, of which the one above 4 has two turns in three; none in 3.x, which
        counts as one level. (4.3 has 32 for queues that ask for them.)"""
        return 2 if self.version >= (4, 0) else 1

    def arguments(self, queue: Queue) -> dict[str, Any]:
        """The arguments for declaring the queue."""
        chosen: dict[str, Any] = {"x-queue-type": queue.kind.value}
        if queue.kind is QueueKind.STREAM:
            if queue.retention is not None:
                chosen["x-max-length-bytes"] = queue.retention
                # retention drops whole segments, never the last one
                chosen["x-stream-max-segment-size-bytes"] = max(1, queue.retention // 4)
            return chosen
        # a quorum queue keeps its dead letters until the other queue confirms them (3.10 and newer), but only if it refuses
        # publishes when full; without that argument it loses them silently
        keeps_dead_letters = queue.kind is QueueKind.QUORUM and queue.dead_letter_to is not None
        optional = {
            "x-single-active-consumer": True if queue.single_active else None,
            "x-expires": _milliseconds(queue.expires),
            "x-message-ttl": _milliseconds(queue.message_ttl),
            "x-max-length": queue.limit,
            "x-overflow": "reject-publish" if queue.limit is not None or keeps_dead_letters else None,
            "x-dead-letter-exchange": "" if queue.dead_letter_to is not None else None,
            "x-dead-letter-routing-key": queue.dead_letter_to,
            "x-dead-letter-strategy": "at-least-once" if keeps_dead_letters else None,
            "x-consumer-timeout": _milliseconds(CONSUMER_TIMEOUT_SECONDS) if self.version >= (3, 12) else None,
            "x-delivery-limit": self._delivery_limit(queue),
        }
        return chosen | {name: value for name, value in optional.items() if value is not None}

    def _delivery_limit(self, queue: Queue) -> int | None:
        """4.x limits quorum queues to 20 by default and takes -1 as "without limit"; on 3.x, -1 drops messages at once."""
        if queue.kind is not QueueKind.QUORUM:
            return None
        if queue.delivery_limit is None:
            return -1 if self.version >= (4, 0) else None
        return queue.delivery_limit


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))
