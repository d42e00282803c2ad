"""Frames in a stream of bytes, and messages in frames."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from pamqp import frame
from pamqp.base import Frame
from pamqp.commands import Basic

from actorhub_embedded.errors import ChannelError, Code, ConnectionFault

PROTOCOL = b"AMQP\x00\x00\x09\x01"
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = 0xCE
MAX_MESSAGE = 16 * 1024 * 1024
INCOMPLETE = 8 * MAX_MESSAGE  # bytes of messages that a connection may have begun and not ended
_HEAD = struct.Struct(">BHI")
_SIZE = struct.Struct(">HHQ")  # class, weight, body size


@dataclass(slots=True)
class Method:
    channel: int
    method: Frame


@dataclass(slots=True)
class Publish:
    """A whole message. `header` is its content header's payload."""

    channel: int
    method: Basic.Publish
    header: bytes
    body: bytes


@dataclass(slots=True)
class Oversized:
    """A message that is too large; its body is skipped."""

    channel: int
    method: Basic.Publish
    error: ChannelError


Received = Method | Publish | Oversized | None  # None: a heartbeat


@dataclass(slots=True)
class _Content:
    method: Basic.Publish
    header: bytes = b""
    left: int = 0
    parts: list[bytes] | None = field(default_factory=list)  # None: skipped


class Reader:
    """One connection's incoming bytes. `frame_max` is what was agreed on, `room` the bytes of incomplete messages that are
    held at most: none before the client has logged in."""

    def __init__(self, frame_max: int, *, room: int = 0) -> None:
        self.frame_max = frame_max
        self.room = room
        self._incomplete = 0
        self._buffer = bytearray()
        self._contents: dict[int, _Content] = {}

    def feed(self, data: bytes) -> Iterator[Received]:
        """What these bytes complete.

        Raises:
            ConnectionFault: they are not AMQP, or not in an order that AMQP allows.
        """
        self._buffer += data
        start, end = 0, len(self._buffer)
        try:
            while end - start >= _HEAD.size:
                kind, channel, size = _HEAD.unpack_from(self._buffer, start)
                if size > self.frame_max - 8:
                    raise ConnectionFault(
                        Code.FRAME_ERROR, f"a frame of {size} bytes; the agreed maximum is {self.frame_max}"
                    )
                stop = start + _HEAD.size + size
                if end <= stop:
                    break
                if self._buffer[stop] != END:
                    raise ConnectionFault(Code.FRAME_ERROR, "a frame does not end with its mark")
                payload = bytes(memoryview(self._buffer)[start + _HEAD.size : stop])
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
        framed = b"".join((_HEAD.pack(METHOD, channel, len(payload)), payload, b"\xce"))
        try:
            method = frame.unmarshal(framed)[2]
        except Exception as exc:
            raise ConnectionFault(Code.SYNTAX_ERROR, f"a method frame cannot be decoded: {exc}") from exc
        if not isinstance(method, Frame):
            raise ConnectionFault(Code.SYNTAX_ERROR, "a method frame holds no method")
        if channel in self._contents:
            raise ConnectionFault(Code.UNEXPECTED_FRAME, f"{method.name} came where a message's content was expected")
        if isinstance(method, Basic.Publish):
            self._contents[channel] = _Content(method)
        else:
            yield Method(channel, method)

    def _header(self, channel: int, payload: bytes) -> Iterator[Received]:
        content = self._contents.get(channel)
        if content is None or content.header or len(payload) < _SIZE.size + 2:
            raise ConnectionFault(Code.UNEXPECTED_FRAME, "a content header came where none was expected")
        content.header = payload
        content.left = int(_SIZE.unpack_from(payload)[2])
        try:
            frame.unmarshal(b"".join((_HEAD.pack(HEADER, channel, len(payload)), payload, b"\xce")))
        except Exception as exc:
            raise ConnectionFault(Code.SYNTAX_ERROR, f"a content header cannot be decoded: {exc}") from exc
        if content.left > MAX_MESSAGE:
            content.parts = None
            text = f"message size {content.left} is larger than the maximum of {MAX_MESSAGE}"
            yield Oversized(channel, content.method, ChannelError(Code.PRECONDITION_FAILED, text))
        yield from self._complete(channel, content)

    def _body(self, channel: int, payload: bytes) -> Iterator[Received]:
        content = self._contents.get(channel)
        if content is None or not content.header or len(payload) > content.left:
            raise ConnectionFault(Code.UNEXPECTED_FRAME, "a content body came where none was expected")
        content.left -= len(payload)
        if content.parts is not None:
            content.parts.append(payload)
            self._incomplete += len(payload)
            if self._incomplete > self.room:
                raise ConnectionFault(
                    Code.RESOURCE_ERROR, f"{self._incomplete} bytes of messages were begun and not ended"
                )
        yield from self._complete(channel, content)

    def _complete(self, channel: int, content: _Content) -> Iterator[Received]:
        if content.left:
            return
        del self._contents[channel]
        if content.parts is not None:
            body = content.parts[0] if len(content.parts) == 1 else b"".join(content.parts)
            self._incomplete -= len(body)
            yield Publish(channel, content.method, content.header, body)


def marshal(channel: int, method: Frame, header: bytes | None, body: bytes, frame_max: int) -> list[bytes]:
    """The frames of a method, and of its message where it has one."""
    frames = [frame.marshal(method, channel)]
    if header is not None:
        frames += _HEAD.pack(HEADER, channel, len(header)), header, b"\xce"
        most = frame_max - 8
        for start in range(0, len(body), most):
            part = body if len(body) <= most else body[start : start + most]
            frames += _HEAD.pack(BODY, channel, len(part)), part, b"\xce"
    return frames
