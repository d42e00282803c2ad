"""Opening a pika connection, and saying in our errors why one could not be opened."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pika
from pika import exceptions

from actorhub.errors import BrokerUnavailable
from actorhub_rabbitmq.stream_connection import StreamConnection

logging.getLogger("pika").setLevel(logging.CRITICAL)  # it logs each failed attempt nine times; our errors say it once

HEARTBEAT = 10  # seconds
ATTEMPT = 10.0  # seconds that one attempt may take

_WRONG_USER = "it refused the user or the password; check the URL"
_WRONG_VHOST = "the user may not use the virtual host, or there is none of that name; check the URL"
_BREAKS_OFF = "it broke off the greeting: it is starting or stopping, or what listens there does not speak AMQP 0-9-1"

# the first that fits. pika guesses from the moment at which the stream ended; only the broker's own word, with its code,
# says that trying again is of no use
_REASONS: tuple[tuple[type[BaseException], str, str], ...] = (
    (exceptions.ProbableAuthenticationError, "403", _WRONG_USER),
    (exceptions.AuthenticationError, "", _WRONG_USER),
    (exceptions.ProbableAccessDeniedError, "530", _WRONG_VHOST),
    (exceptions.ConnectionClosedByBroker, "403", _WRONG_USER),
    (exceptions.ConnectionClosedByBroker, "530", _WRONG_VHOST),
)


async def open_connection(url: str, name: str) -> StreamConnection:
    """An open connection.

    Raises:
        BrokerUnavailable: with the URL, the cause and what to do.
    """
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[StreamConnection] = loop.create_future()

    def on_open(connection: Any) -> None:
        if not opened.done():
            opened.set_result(connection)

    def on_error(connection: Any, error: BaseException) -> None:
        if not opened.done():
            opened.set_exception(error)

    connection: StreamConnection | None = None
    try:
        connection = StreamConnection(_parameters(url, name), on_open, on_error)
        async with asyncio.timeout(ATTEMPT):
            await connection.open()
            return await opened
    except BaseException as exc:
        if connection is not None:
            connection.abort()
        if isinstance(exc, exceptions.AMQPError | OSError | TimeoutError | ValueError):
            raise unavailable(url, exc) from exc
        raise


async def open_connections(url: str, *names: str) -> list[StreamConnection]:
    """All of them, opened at once, or none: where one fails, those that are open are cut off.

    Raises:
        BrokerUnavailable: with the URL, the cause and what to do.
    """
    opening = [asyncio.ensure_future(open_connection(url, name)) for name in names]
    try:
        return await asyncio.gather(*opening)
    except BaseException:
        for task in opening:
            task.cancel()
        for opened in await asyncio.gather(*opening, return_exceptions=True):
            if isinstance(opened, StreamConnection):
                opened.abort()
        raise


def _parameters(url: str, name: str) -> pika.URLParameters:
    parameters = pika.URLParameters(url)
    parameters.heartbeat = HEARTBEAT
    parameters.connection_attempts = 1
    parameters.socket_timeout = ATTEMPT
    parameters.stack_timeout = ATTEMPT
    parameters.tcp_options = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
    parameters.client_properties = {"connection_name": name, "product": "ActorHub"}
    return parameters


def unavailable(url: str, error: BaseException) -> BrokerUnavailable:
    """Our error for one of pika's or the system's."""
    where = f"the broker at {hide_password(url)}"
    for kind, code, reason in _REASONS:
        if isinstance(error, kind) and code in repr(error):
            return BrokerUnavailable(f"{where}: {reason}", permanent=True)
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(f"{where}: it did not answer in {ATTEMPT:.0f} s; check that it is up")
    if isinstance(error, OSError):
        return BrokerUnavailable(f"{where}: nobody listens there ({error}); start RabbitMQ, or check host and port")
    if isinstance(error, exceptions.AMQPError):
        return BrokerUnavailable(f"{where}: {_BREAKS_OFF} ({error!r})")
    return BrokerUnavailable(f"{where}: {type(error).__name__}: {error}", permanent=True)


def hide_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))
