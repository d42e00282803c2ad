"""AMQP frames: parsing bytes into methods and messages, and the frames of a method."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from pamqp import frame
from pamqp.base import Frame
from pamqp.commands import Basic

from actorhub_embedded.errors import ChannelError, Code, ConnectionFault

PROTOCOL = b"AMQP\x00\x00\x09\x01"
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8  # frame types
FRAME_END = b"\xce"
FRAME_OVERHEAD_BYTES = 8  # of a frame's head and end mark
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
MAX_INCOMPLETE_BYTES = 8 * MAX_MESSAGE_BYTES  # of the incomplete messages of one connection
_FRAME_HEAD = struct.Struct(">BHI")  # type, channel, payload size
_CONTENT_HEAD = struct.Struct(">HHQ")  # class, weight, body size


@dataclass(slots=True)
class Method:
    """A method without a message."""

    channel: int
    method: Frame


@dataclass(slots=True)
class Publish:
    """A complete message."""

    channel: int
    method: Basic.Publish
    header: bytes
    """The content header's payload."""
    body: bytes


@dataclass(slots=True)
class Oversized:
    """A message that is too large; its body is not kept."""

    channel: int
    method: Basic.Publish
    error: ChannelError


Received = Method | Publish | Oversized | None  # None: a heartbeat


@dataclass(slots=True)
class _Content:
    """A message of which some frames are missing."""

    method: Basic.Publish
    header: bytes = b""
    missing: int = 0
    """Bytes of the body that have not come yet."""
    parts: list[bytes] | None = field(default_factory=list)
    """The body so far; None if it is too large and not kept."""


class Reader:
    """Parser of the bytes that a connection receives.

    Args:
        frame_max: largest frame in bytes, as negotiated.
        max_incomplete: bytes of incomplete messages that are kept at most; 0 until the client has logged in.
    """

    def __init__(self, frame_max: int, *, max_incomplete: int = 0) -> None:
        self.frame_max = frame_max
        self.max_incomplete = max_incomplete
        self._incomplete = 0
        self._buffer = bytearray()
        self._contents: dict[int, _Content] = {}

    def feed(self, data: bytes) -> Iterator[Received]:
        """The methods, messages and heartbeats that these bytes complete.

        Raises:
            ConnectionFault: the bytes are not AMQP, or not in an order that AMQP allows.
        """
        self._buffer += data
        start, end = 0, len(self._buffer)
        try:
            while end - start >= _FRAME_HEAD.size:
                kind, channel, size = _FRAME_HEAD.unpack_from(self._buffer, start)
                if size > self.frame_max - FRAME_OVERHEAD_BYTES:
                    raise ConnectionFault(
                        Code.FRAME_ERROR, f"a frame of {size} bytes; the negotiated maximum is {self.frame_max}"
                    )
                stop = start + _FRAME_HEAD.size + size
                if end <= stop:
                    break
                if self._buffer[stop] != FRAME_END[0]:
                    raise ConnectionFault(Code.FRAME_ERROR, "a frame does not end with 0xCE")
                payload = bytes(memoryview(self._buffer)[start + _FRAME_HEAD.size : stop])
                start = stop + 1
                if kind == HEARTBEAT:
                    yield None
                elif kind == METHOD:
                    yield from self._method(channel, payload)
                elif kind == HEADER:
                    yield from self._header(channel, payload)
                elif kind == BODY:
                    yield from self._body(channel, payload)
                else:
                    raise ConnectionFault(Code.FRAME_ERROR, f"a frame of unknown type {kind}")
        finally:
            del self._buffer[:start]

    def _method(self, channel: int, payload: bytes) -> Iterator[Received]:
        framed = b"".join((_FRAME_HEAD.pack(METHOD, channel, len(payload)), payload, FRAME_END))
        try:
            method = frame.unmarshal(framed)[2]
        except Exception as exc:
            raise ConnectionFault(Code.SYNTAX_ERROR, f"a method frame cannot be decoded: {exc}") from exc
        if not isinstance(method, Frame):
            raise ConnectionFault(Code.SYNTAX_ERROR, "a method frame holds no method")
        if channel in self._contents:
            raise ConnectionFault(
                Code.UNEXPECTED_FRAME, f"{method.name} came before the content of a message was complete"
            )
        if isinstance(method, Basic.Publish):
            self._contents[channel] = _Content(method)
        else:
            yield Method(channel, method)

    def _header(self, channel: int, payload: bytes) -> Iterator[Received]:
        content = self._contents.get(channel)
        if content is None or content.header or len(payload) < _CONTENT_HEAD.size + 2:
            raise ConnectionFault(Code.UNEXPECTED_FRAME, "unexpected content header")
        content.header = payload
        content.missing = int(_CONTENT_HEAD.unpack_from(payload)[2])
        try:
            frame.unmarshal(b"".join((_FRAME_HEAD.pack(HEADER, channel, len(payload)), payload, FRAME_END)))
        except Exception as exc:
            raise ConnectionFault(Code.SYNTAX_ERROR, f"a content header cannot be decoded: {exc}") from exc
        if content.missing > MAX_MESSAGE_BYTES:
            content.parts = None
            text = f"message size {content.missing} is larger than the maximum of {MAX_MESSAGE_BYTES}"
            yield Oversized(channel, content.method, ChannelError(Code.PRECONDITION_FAILED, text))
        yield from self._complete(channel, content)

    def _body(self, channel: int, payload: bytes) -> Iterator[Received]:
        content = self._contents.get(channel)
        if content is None or not content.header or len(payload) > content.missing:
            raise ConnectionFault(Code.UNEXPECTED_FRAME, "unexpected content body")
        content.missing -= len(payload)
        if content.parts is not None:
            content.parts.append(payload)
            self._incomplete += len(payload)
            if self._incomplete > self.max_incomplete:
                raise ConnectionFault(
                    Code.RESOURCE_ERROR,
                    f"incomplete messages take {self._incomplete} of {self.max_incomplete} bytes",
                )
        yield from self._complete(channel, content)

    def _complete(self, channel: int, content: _Content) -> Iterator[Received]:
        if content.missing:
            return
        del self._contents[channel]
        if content.parts is not None:
            body = content.parts[0] if len(content.parts) == 1 else b"".join(content.parts)
            self._incomplete -= len(body)
            yield Publish(channel, content.method, content.header, body)


def marshal(channel: int, method: Frame, header: bytes | None, body: bytes, frame_max: int) -> list[bytes]:
    """The frames of a method, and of its message if it carries one.

    Args:
        channel: the channel's number.
        method: the method.
        header: the content header's payload; None if there is no message.
        body: the message's body.
        frame_max: largest frame in bytes, as negotiated.
    """
    frames = [frame.marshal(method, channel)]
    if header is not None:
        frames += _FRAME_HEAD.pack(HEADER, channel, len(header)), header, FRAME_END
        largest = frame_max - FRAME_OVERHEAD_BYTES
        for start in range(0, len(body), largest):
            part = body if len(body) <= largest else body[start : start + largest]
            frames += _FRAME_HEAD.pack(BODY, channel, len(part)), part, FRAME_END
    return frames
