"""AMQP errors, as the embedded broker raises them and sends them to clients."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """AMQP reply codes, by RabbitMQ's names for them."""

    NO_ROUTE = 312
    CONNECTION_FORCED = 320
    ACCESS_REFUSED = 403
    NOT_FOUND = 404
    RESOURCE_LOCKED = 405
    PRECONDITION_FAILED = 406
    FRAME_ERROR = 501
    SYNTAX_ERROR = 502
    COMMAND_INVALID = 503
    CHANNEL_ERROR = 504
    UNEXPECTED_FRAME = 505
    RESOURCE_ERROR = 506
    NOT_ALLOWED = 530
    NOT_IMPLEMENTED = 540


class AmqpError(Exception):
    """An error of a client: its reply code, and the text that the client is sent."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = f"{code.name} - {text}"[:255]


class ChannelError(AmqpError):
    """Error that closes the channel; the connection's other channels stay open."""


class ConnectionFault(AmqpError):
    """Error that closes the connection; other connections stay open."""


def not_supported(feature: str) -> ConnectionFault:
    """The error for a feature that the embedded broker does not have."""
    return ConnectionFault(Code.NOT_IMPLEMENTED, f"the embedded broker does not support {feature}")
