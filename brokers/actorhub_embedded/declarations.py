"""Queue declarations: the arguments of `queue.declare`, and whether an existing queue has the declared properties."""

from __future__ import annotations

from typing import Any

from pamqp.commands import Queue as QueueMethods
from pydantic import ValidationError

from actorhub_embedded.errors import ChannelError, Code, not_supported
from actorhub_embedded.queues import Queue, QueueArguments


def parse_arguments(method: QueueMethods.Declare) -> QueueArguments:
    """The arguments of a declaration.

    Raises:
        ChannelError: an argument has an invalid value.
        ConnectionFault: an argument is not supported.
    """
    try:
        arguments = QueueArguments.model_validate(dict(method.arguments or {}))
    except ValidationError as exc:
        unknown = [str(error["loc"][0]) for error in exc.errors() if error["type"] == "extra_forbidden"]
        if unknown:
            raise not_supported(", ".join(unknown)) from exc
        first = exc.errors()[0]
        text = f"invalid arg '{first['loc'][0]}' for queue '{method.queue}': {first['msg']}"
        raise ChannelError(Code.PRECONDITION_FAILED, text) from exc
    if arguments.dead_letter_routing_key is not None and arguments.dead_letter_exchange is None:
        text = "routing_key_without_exchange: x-dead-letter-routing-key needs x-dead-letter-exchange"
        raise ChannelError(Code.PRECONDITION_FAILED, text)
    return arguments


def check_equivalent(queue: Queue, method: QueueMethods.Declare) -> None:
    """Check that a queue is what a declaration of its name asks for.

    Raises:
        ChannelError: it has other properties or arguments.
    """
    current: dict[str, Any] = queue.arguments.model_dump(by_alias=True) | {
        "durable": queue.durable,
        "auto_delete": queue.auto_delete,
        "exclusive": queue.exclusive_to is not None,
    }
    received: dict[str, Any] = parse_arguments(method).model_dump(by_alias=True) | {
        "durable": method.durable,
        "auto_delete": method.auto_delete,
        "exclusive": method.exclusive,
    }
    for name, value in received.items():
        if value != current[name]:
            text = f"inequivalent arg '{name}' for queue '{queue.name}' in vhost '/'"
            text += f": received {value!r} but current is {current[name]!r}"
            raise ChannelError(Code.PRECONDITION_FAILED, text)
