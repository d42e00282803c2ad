"""Messages as they are held: properties stay as the bytes that the publisher sent, and are decoded only where they matter."""

from __future__ import annotations

import datetime
import struct
from typing import Any

from pamqp import frame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

_FLAGS = struct.Struct(">H")
_FLAGS_AT = 12  # behind the class, the weight and the body's size
_EXPIRATION = 1 << 8
_PRIORITY = 1 << 11
OVERHEAD = 300  # bytes that a held message takes beside its body and header


class Message:
    """`header` is the content header's payload. A message routed to several queues is held once."""

    __slots__ = ("body", "exchange", "header", "routing_key")

    def __init__(self, exchange: str, routing_key: str, header: bytes, body: bytes) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.header = header
        self.body = body

    @property
    def size(self) -> int:
        return len(self.body) + len(self.header) + OVERHEAD

    @property
    def properties(self) -> Basic.Properties:
        return decode(self.header)

    @property
    def expiration(self) -> float | None:
        """Seconds, where the publisher gave any.

        Raises:
            ValueError: it is no number of milliseconds.
        """
        if not self._flags & _EXPIRATION:
            return None
        return int(self.properties.expiration or "0") / 1000

    @property
    def priority(self) -> int:
        return (self.properties.priority or 0) if self._flags & _PRIORITY else 0

    @property
    def _flags(self) -> int:
        return int(_FLAGS.unpack_from(self.header, _FLAGS_AT)[0])

    def with_headers(self, **headers: Any) -> Message:
        """The same message with these headers more."""
        properties = self.properties
        properties.headers = {**(properties.headers or {}), **headers}
        return Message(self.exchange, self.routing_key, encode(properties, len(self.body)), self.body)

    def dead(self, queue: str, reason: str, now: float, exchange: str, routing_key: str | None) -> Message:
        """The message as it leaves a queue for a dead-letter exchange; `x-death` tells its way."""
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

    def died_in(self, queue: str) -> bool:
        """Whether it has been there before and was never rejected by a consumer: then it goes in a circle."""
        deaths: list[dict[str, Any]] = list((self.properties.headers or {}).get("x-death") or [])  # type: ignore[arg-type]
        return any(d["queue"] == queue for d in deaths) and all(d["reason"] != "rejected" for d in deaths)


def decode(header: bytes) -> Basic.Properties:
    """Raises:
    Exception: the properties cannot be decoded.
    """
    framed = struct.pack(">BHI", 2, 0, len(header)) + header + b"\xce"
    found = frame.unmarshal(framed)[2]
    assert isinstance(found, ContentHeader)
    return found.properties


def encode(properties: Basic.Properties, body_size: int) -> bytes:
    return frame.marshal(ContentHeader(0, body_size, properties), 0)[7:-1]
