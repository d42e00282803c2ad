"""AMQP's errors, as the embedded broker raises them inside and sends them outside."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Reply codes, by RabbitMQ's names for them."""

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
    """Something that a client did and may not do."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = f"{code.name} - {text}"[:255]


class ChannelError(AmqpError):
    """Closes the channel; other channels of the connection go on."""


class ConnectionFault(AmqpError):
    """Closes the connection; other connections go on."""


def not_supported(what: str) -> ConnectionFault:
    """The refusal of what the embedded broker does not have."""
    return ConnectionFault(Code.NOT_IMPLEMENTED, f"the embedded broker does not support {what}")
