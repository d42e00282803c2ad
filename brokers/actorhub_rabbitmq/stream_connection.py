"""pika's protocol engine on an asyncio transport.

pika's own AsyncioConnection watches the socket's descriptor and writes each frame by a system call of its own; a transport
reads and writes at once and, under uvloop, joins what one turn of the loop has written. That halves the processor time of
a message which travels alone. `Connection` is pika's base for such adapters.
"""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from pika import exceptions
from pika.connection import Connection, Parameters
from pika.spec import Basic

LAST_WORDS = 1.0  # seconds that the broker has to take what was written before the end


class StreamConnection(Connection):  # type: ignore[misc]  # pika is not typed
    """A connection that `open` brings up. Callbacks are those of every pika connection."""

    def __init__(
        self,
        parameters: Parameters,
        on_open: Callable[[Any], None],
        on_error: Callable[[Any, BaseException], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self.on_confirm: Callable[[Any], None] | None = None  # of the channel that publishes, where one does
        super().__init__(parameters, on_open, on_error, None, internal_connection_workflow=False)

    async def open(self) -> None:
        """Connect the stream; the handshake goes on by itself, and ends in `on_open` or `on_error`.

        Raises:
            OSError: nobody listens there, or TLS failed.
        """
        options = self.params.ssl_options
        await self._loop.create_connection(
            lambda: _Stream(self),
            self.params.host,
            self.params.port,
            ssl=options.context if options is not None else None,
            server_hostname=(options.server_hostname or self.params.host) if options is not None else None,
        )

    def abort(self) -> None:
        """End the stream now."""
        if self._transport is not None:
            self._transport.abort()

    # ---- what the stream tells

    def stream_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._on_stream_connected()

    def stream_received(self, data: bytes) -> None:
        self._on_data_available(data)

    def stream_lost(self, error: Exception | None) -> None:
        self._transport = None
        if error is None and self._error is None:
            error = exceptions.StreamLostError("the broker closed the stream")
        elif error is not None:
            error = exceptions.StreamLostError(f"the stream was lost: {error!r}")
        self._on_stream_terminated(error)

    # ---- what pika asks of an adapter

    def _adapter_call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, callback)

    def _adapter_remove_timeout(self, timeout_id: Any) -> None:
        timeout_id.cancel()

    def _adapter_add_callback_threadsafe(self, callback: Callable[..., Any]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def _adapter_connect_stream(self) -> None:
        raise AssertionError("the stream is connected by `open`")

    def _adapter_disconnect_stream(self) -> None:
        """What was written leaves first, where the other side still reads."""
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(LAST_WORDS, self._transport.abort)

    def _adapter_emit_data(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _process_callbacks(self, frame: Any) -> bool:
        """pika searches by name for the callbacks of each frame; what comes with every message needs no search."""
        method = type(getattr(frame, "method", None))
        if method is Basic.Deliver:
            return False
        if self.on_confirm is not None and (method is Basic.Ack or method is Basic.Nack):
            self.on_confirm(frame)
            return True
        return bool(super()._process_callbacks(frame))

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        data = b"".join(marshaled_frames)
        self.bytes_sent += len(data)
        self.frames_sent += len(marshaled_frames)
        self._adapter_emit_data(data)


class _Stream(asyncio.Protocol):
    def __init__(self, connection: StreamConnection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.stream_made(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._connection.stream_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.stream_lost(exc)
