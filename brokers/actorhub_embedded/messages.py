"""Stored messages: properties stay the bytes that the publisher sent and are decoded only when needed, to save memory."""

from __future__ import annotations

import datetime
import struct
from typing import Any

from pamqp import frame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

_FLAGS = struct.Struct(">H")
_FLAGS_OFFSET = 12  # after the class, the weight and the body's size
_EXPIRATION = 1 << 8
_PRIORITY = 1 << 11
OVERHEAD_BYTES = 300  # of a stored message, besides its body and header


class Message:
    """A message as published. All queues that it is routed to share one.

    Args:
        exchange: the exchange that it was published to.
        routing_key: the key that it was published with.
        header: the content header's payload.
        body: the body.
    """

    __slots__ = ("body", "exchange", "header", "routing_key")

    def __init__(self, exchange: str, routing_key: str, header: bytes, body: bytes) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.header = header
        self.body = body

    @property
    def size(self) -> int:
        """Bytes that it counts for."""
        return len(self.body) + len(self.header) + OVERHEAD_BYTES

    @property
    def properties(self) -> Basic.Properties:
        return decode(self.header)

    @property
    def expiration(self) -> float | None:
        """Seconds until it expires; None if the publisher set none.

        Raises:
            ValueError: the property is not a number of milliseconds.
        """
        if not self._flags & _EXPIRATION:
            return None
        return int(self.properties.expiration or "0") / 1000

    @property
    def priority(self) -> int:
        return (self.properties.priority or 0) if self._flags & _PRIORITY else 0

    @property
    def _flags(self) -> int:
        return int(_FLAGS.unpack_from(self.header, _FLAGS_OFFSET)[0])

    def with_headers(self, **headers: Any) -> Message:
        """A copy with additional headers."""
        properties = self.properties
        properties.headers = {**(properties.headers or {}), **headers}
        return Message(self.exchange, self.routing_key, encode(properties, len(self.body)), self.body)

    def dead(self, queue: str, reason: str, now: float, exchange: str, routing_key: str | None) -> Message:
        """A copy for the dead-letter exchange, with its history in `x-death` as RabbitMQ writes it.

        Args:
            queue: the queue that it died in.
            reason: why: `rejected`, `expired`, `maxlen` or `delivery_limit`.
            now: when.
            exchange: the dead-letter exchange.
            routing_key: its new routing key; None keeps the old one.
        """
        properties = self.properties
        headers: dict[str, Any] = dict(properties.headers or {})
        deaths: list[dict[str, Any]] = list(headers.get("x-death") or [])
        death: dict[str, Any] | None = next((d for d in deaths if d["queue"] == queue and d["reason"] == reason), None)
        if death is None:
            death = {
                "count": 0,
                "reason": reason,
                "queue": queue,
                "time": datetime.datetime.fromtimestamp(now, datetime.UTC),
                "exchange": self.exchange,
                "routing-keys": [self.routing_key],
            }
            if properties.expiration is not None:
                death["original-expiration"] = properties.expiration
        else:
            deaths.remove(death)
        headers["x-death"] = [{**death, "count": int(death["count"]) + 1}, *deaths]
        headers.setdefault("x-first-death-reason", reason)
        headers.setdefault("x-first-death-queue", queue)
        headers.setdefault("x-first-death-exchange", self.exchange)
        properties.headers = headers
        properties.expiration = None
        key = self.routing_key if routing_key is None else routing_key
        return Message(exchange, key, encode(properties, len(self.body)), self.body)

    def in_cycle(self, queue: str) -> bool:
        """True if it died in this queue before and no consumer ever rejected it: then it goes in a circle."""
        deaths: list[dict[str, Any]] = list((self.properties.headers or {}).get("x-death") or [])  # type: ignore[arg-type]
        return any(d["queue"] == queue for d in deaths) and all(d["reason"] != "rejected" for d in deaths)


def decode(header: bytes) -> Basic.Properties:
    """The properties in a content header's payload.

    Raises:
        Exception: they cannot be decoded.
    """
    framed = struct.pack(">BHI", 2, 0, len(header)) + header + b"\xce"
    found = frame.unmarshal(framed)[2]
    assert isinstance(found, ContentHeader)
    return found.properties


def encode(properties: Basic.Properties, body_size: int) -> bytes:
    """A content header's payload."""
    return frame.marshal(ContentHeader(0, body_size, properties), 0)[7:-1]
