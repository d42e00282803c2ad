"""Opening a pika connection, and saying in our errors why one could not be opened."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pika
from pika import exceptions
from pika.adapters.asyncio_connection import AsyncioConnection

from actorhub.errors import BrokerUnavailable

logging.getLogger("pika").setLevel(logging.CRITICAL)  # it logs each failed attempt nine times; our errors say it once

HEARTBEAT = 10  # seconds
ATTEMPT = 10.0  # seconds that one attempt may take

# the first that fits; what to do next, and whether trying again is of no use
_REASONS: tuple[tuple[type[BaseException], str, bool], ...] = (
    (exceptions.ProbableAuthenticationError, "it refused the user or the password; check the URL", True),
    (exceptions.AuthenticationError, "it refused the user or the password; check the URL", True),
    (exceptions.ProbableAccessDeniedError, "the user may not use the virtual host; check the URL", True),
    (exceptions.IncompatibleProtocolError, "what listens there does not speak AMQP 0-9-1; check the port", True),
    (TimeoutError, "it did not answer in time; check that it is up", False),
    (OSError, "nobody listens there; start RabbitMQ or check host and port", False),
)
_VHOST = 530  # NOT_ALLOWED: the virtual host is missing or forbidden
_REFUSED = 403


async def open_connection(url: str, name: str) -> AsyncioConnection:
    """An open connection.

    Raises:
        BrokerUnavailable: with the URL, the cause and what to do.
    """
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[AsyncioConnection] = loop.create_future()

    def on_open(connection: Any) -> None:
        if not opened.done():
            opened.set_result(connection)
        else:
            connection.close()

    def on_error(connection: Any, error: BaseException) -> None:
        if not opened.done():
            opened.set_exception(error)

    try:
        AsyncioConnection(_parameters(url, name), on_open, on_error, custom_ioloop=loop)
        async with asyncio.timeout(ATTEMPT):
            return await opened
    except (exceptions.AMQPError, OSError, TimeoutError, ValueError) as exc:
        raise unavailable(url, exc) from exc


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
    """Our error for one of pika's, which wraps the cause in attempts and workflows."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, exceptions.ConnectionClosedByBroker) and cause.reply_code in (_VHOST, _REFUSED):
            return BrokerUnavailable(
                f"the broker at {hide_password(url)}: {cause.reply_text}; check the URL", permanent=True
            )
        for kind, reason, permanent in _REASONS:
            if isinstance(cause, kind):
                return BrokerUnavailable(f"the broker at {hide_password(url)}: {reason}", permanent=permanent)
    last = causes[-1]
    return BrokerUnavailable(f"the broker at {hide_password(url)}: {type(last).__name__}: {last}")


def _causes(error: BaseException) -> Any:
    """The error and all that it wraps."""
    yield error
    inner = [*getattr(error, "exceptions", ()), getattr(error, "exception", None), *error.args, error.__cause__]
    for cause in inner:
        if isinstance(cause, BaseException):
            yield from _causes(cause)


def hide_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))
