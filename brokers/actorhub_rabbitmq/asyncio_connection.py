"""pika's protocol engine on an asyncio transport.

pika's own AsyncioConnection watches the socket's descriptor and writes each frame with a system call of its own. A transport
reads and writes directly and, under uvloop, joins the writes of one turn of the loop, which halves the processor time of a
message that travels alone. `Connection` is pika's base class for such adapters.
"""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from pika import exceptions
from pika.connection import Connection, Parameters
from pika.spec import Basic

CLOSE_WRITE_TIMEOUT_SECONDS = 1.0  # for the broker to read what was written before the connection was closed


class TransportConnection(Connection):  # type: ignore[misc]  # pika is not typed
    """A pika connection on an asyncio transport, brought up by `open`.

    Args:
        parameters: pika's parameters: address, credentials, timeouts.
        on_open: called with the connection when the handshake is complete.
        on_error: called with the connection and the error when the handshake failed.
    """

    def __init__(
        self,
        parameters: Parameters,
        on_open: Callable[[Any], None],
        on_error: Callable[[Any, BaseException], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self.on_confirm: Callable[[Any], None] | None = None
        """Called with each confirm, if one of the channels publishes."""
        super().__init__(parameters, on_open, on_error, None, internal_connection_workflow=False)

    async def open(self) -> None:
        """Connect the socket. The handshake follows by itself and ends in `on_open` or `on_error`.

        Raises:
            OSError: nothing listens there, or TLS failed.
        """
        options = self.params.ssl_options
        await self._loop.create_connection(
            lambda: _TransportProtocol(self),
            self.params.host,
            self.params.port,
            ssl=options.context if options is not None else None,
            server_hostname=(options.server_hostname or self.params.host) if options is not None else None,
        )

    def abort(self) -> None:
        """Cut the connection off."""
        if self._transport is not None:
            self._transport.abort()

    # ---- events of the transport

    def on_transport_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._on_stream_connected()

    def on_data_received(self, data: bytes) -> None:
        self._on_data_available(data)

    def on_transport_lost(self, error: Exception | None) -> None:
        self._transport = None
        if error is None and self._error is None:
            error = exceptions.StreamLostError("the broker closed the socket")
        elif error is not None:
            error = exceptions.StreamLostError(f"the socket was lost: {error!r}")
        self._on_stream_terminated(error)

    # ---- pika's interface for adapters

    def _adapter_call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, callback)

    def _adapter_remove_timeout(self, timeout_id: Any) -> None:
        timeout_id.cancel()

    def _adapter_add_callback_threadsafe(self, callback: Callable[..., Any]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def _adapter_connect_stream(self) -> None:
        raise AssertionError("`open` connects the socket")

    def _adapter_disconnect_stream(self) -> None:
        """Close when everything was written, or cut off a broker that does not read it."""
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(CLOSE_WRITE_TIMEOUT_SECONDS, self._transport.abort)

    def _adapter_emit_data(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _process_callbacks(self, frame: Any) -> bool:
        """Skip pika's search for callbacks for the frames that come with every message."""
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


class _TransportProtocol(asyncio.Protocol):
    """Passes a transport's events to the connection."""

    def __init__(self, connection: TransportConnection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.on_transport_made(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._connection.on_data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.on_transport_lost(exc)
