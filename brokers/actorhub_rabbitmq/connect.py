"""Opening pika connections, with failures as BrokerUnavailable."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pika
from pika import exceptions

from actorhub.errors import BrokerUnavailable
from actorhub_rabbitmq.asyncio_connection import TransportConnection

logging.getLogger("pika").setLevel(logging.CRITICAL)  # it logs each failed attempt nine times; our errors say it once

HEARTBEAT_SECONDS = 10
CONNECT_TIMEOUT_SECONDS = 10.0  # of one attempt

_WRONG_USER = "it refused the user or the password; check the URL"
_WRONG_VHOST = "the virtual host does not exist, or the user may not use it; check the URL"
_HANDSHAKE_FAILED = "the handshake failed: the broker is starting or stopping, or the server does not speak AMQP 0-9-1"

# The first match counts: error, reply code, reason. pika guesses from the moment at which the connection ended; only a reply
# code from the broker shows that another attempt will fail too.
_REASONS: tuple[tuple[type[BaseException], str, str], ...] = (
    (exceptions.ProbableAuthenticationError, "403", _WRONG_USER),
    (exceptions.AuthenticationError, "", _WRONG_USER),
    (exceptions.ProbableAccessDeniedError, "530", _WRONG_VHOST),
    (exceptions.ConnectionClosedByBroker, "403", _WRONG_USER),
    (exceptions.ConnectionClosedByBroker, "530", _WRONG_VHOST),
)


async def open_connection(url: str, name: str) -> TransportConnection:
    """Open a connection that the broker's tools show under `name`.

    Raises:
        BrokerUnavailable: with the URL, the cause and what to do.
    """
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[TransportConnection] = loop.create_future()

    def on_open(connection: Any) -> None:
        if not opened.done():
            opened.set_result(connection)

    def on_error(connection: Any, error: BaseException) -> None:
        if not opened.done():
            opened.set_exception(error)

    connection: TransportConnection | None = None
    try:
        connection = TransportConnection(_parameters(url, name), on_open, on_error)
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            await connection.open()
            return await opened
    except BaseException as exc:
        if connection is not None:
            connection.abort()
        if isinstance(exc, exceptions.AMQPError | OSError | TimeoutError | ValueError):
            raise unavailable(url, exc) from exc
        raise


async def open_connections(url: str, *names: str) -> list[TransportConnection]:
    """Open several connections at once: all of them, or none if one fails.

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
            if isinstance(opened, TransportConnection):
                opened.abort()
        raise


def _parameters(url: str, name: str) -> pika.URLParameters:
    parameters = pika.URLParameters(url)
    parameters.heartbeat = HEARTBEAT_SECONDS
    parameters.connection_attempts = 1
    parameters.socket_timeout = CONNECT_TIMEOUT_SECONDS
    parameters.stack_timeout = CONNECT_TIMEOUT_SECONDS
    parameters.tcp_options = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
    parameters.client_properties = {"connection_name": name, "product": "ActorHub"}
    return parameters


def unavailable(url: str, error: BaseException) -> BrokerUnavailable:
    """The BrokerUnavailable for an error of pika or of the operating system."""
    where = f"the broker at {hide_password(url)}"
    for kind, code, reason in _REASONS:
        if isinstance(error, kind) and code in repr(error):
            return BrokerUnavailable(f"{where}: {reason}", permanent=True)
    if isinstance(error, TimeoutError):
        return BrokerUnavailable(f"{where}: it did not answer in {CONNECT_TIMEOUT_SECONDS:.0f} s; check that it is up")
    if isinstance(error, OSError):
        return BrokerUnavailable(f"{where}: nothing listens there ({error}); start RabbitMQ, or check host and port")
    if isinstance(error, exceptions.AMQPError):
        return BrokerUnavailable(f"{where}: {_HANDSHAKE_FAILED} ({error!r})")
    return BrokerUnavailable(f"{where}: {type(error).__name__}: {error}", permanent=True)


def hide_password(url: str) -> str:
    """The URL with `***` in place of its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))
