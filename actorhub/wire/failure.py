"""Exceptions on the wire.

The caller gets the exception's own type if its process has imported it already: a name on the wire never imports
anything. The exception is rebuilt from its signed pickle, else from its arguments. One that cannot be rebuilt becomes a
RemoteError, and so do StopIteration and StopAsyncIteration, which would end the loop of the awaiting code. The remote
traceback is always in its notes.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

import pydantic_core
from pydantic import BaseModel, ConfigDict, ValidationError

from actorhub.errors import ActorHubError, InvalidEnvelope, RemoteError
from actorhub.wire.codec import is_json_native
from actorhub.wire.signer import Signer

log = logging.getLogger(__name__)

# characters of a message or a traceback
MAX_TEXT_BYTES = 64 * 1024
# bytes of an exception's arguments, or of its pickle
MAX_FAILURE_BYTES = 4 * MAX_TEXT_BYTES


class Failure(BaseModel):
    """Exception as it travels in a reply. `args` are its arguments if JSON can carry them."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    type: str
    message: str
    traceback: str = ""
    args: list[Any] | None = None
    pickled: bytes | None = None

    @classmethod
    def of(cls, error: BaseException, signer: Signer) -> Failure:
        """Describe an exception. Never raises, whatever the exception is like."""
        kind = type(error)
        args = _args(error)
        return cls(
            type=f"{kind.__module__}:{kind.__qualname__}",
            message=_text(error),
            traceback=_traceback(error),
            args=args,
            pickled=_pickle(error, args, signer),
        )

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_defaults=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> Failure:
        """Read a failure from the wire.

        Raises:
            InvalidEnvelope: the data is not a failure.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as exc:
            raise InvalidEnvelope(f"a failure of {len(data)} bytes cannot be read: {exc}") from exc

    def to_exception(self, signer: Signer) -> Exception:
        """The exception to raise at the caller."""
        kind = _known_type(self.type)
        if kind is not None:
            try:
                if self.pickled is not None and signer.trusts:
                    rebuilt = signer.loads(self.pickled)
                else:
                    rebuilt = kind(*(self.args if self.args is not None else [self.message]))
                if type(rebuilt) is kind:
                    return self._noted(rebuilt)
            except Exception:
                log.debug("a %s cannot be rebuilt here", self.type, exc_info=True)
        return self._noted(RemoteError(f"{self.type}: {self.message}", self.type))

    def _noted(self, error: Exception) -> Exception:
        """Add the remote traceback to the error's notes. Raises any error of a type that takes no notes, such as a
        frozen dataclass."""
        if self.traceback:
            error.add_note(f"remote traceback:\n{self.traceback}")
        return error


def _known_type(name: str) -> type[Exception] | None:
    module_name, _, qualified = name.partition(":")
    found: Any = sys.modules.get(module_name)
    for part in qualified.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type) or not issubclass(found, Exception):
        return None
    return None if issubclass(found, StopIteration | StopAsyncIteration) else found


def _text(error: BaseException) -> str:
    try:
        return _sendable(str(error)[:MAX_TEXT_BYTES])
    except Exception as exc:
        return f"(its message cannot be shown: {type(exc).__name__})"


def _traceback(error: BaseException) -> str:
    try:
        text = _sendable("".join(traceback.format_exception(error)).rstrip())
    except Exception as exc:
        return f"(its traceback cannot be shown: {type(exc).__name__})"
    return (
        text if len(text) <= MAX_TEXT_BYTES else f"{text[: MAX_TEXT_BYTES // 2]}\n...\n{text[-MAX_TEXT_BYTES // 2 :]}"
    )


def _sendable(text: str) -> str:
    """Text that JSON can carry: names of files that are not UTF-8 have surrogates, which it cannot."""
    return text.encode(errors="backslashreplace").decode()


def _args(error: BaseException) -> list[Any] | None:
    """Arguments of an exception if JSON carries them, and they are not too large."""
    try:
        args = list(error.args)
        if not is_json_native(args):
            return None
        data = pydantic_core.to_json(args)
        return args if len(data) <= MAX_FAILURE_BYTES and pydantic_core.from_json(data) == args else None
    # surrogates, cycles, numbers of thousands of digits
    except Exception:
        return None


def _pickle(error: BaseException, args: list[Any] | None, signer: Signer) -> bytes | None:
    """Pickle of an exception whose arguments do not say everything; None for other types."""
    if not signer.trusts or isinstance(error, ActorHubError):
        return None
    try:
        if args is not None and not getattr(error, "__dict__", None):
            return None
        data = signer.dumps(error, type(error).__qualname__)
    except Exception:
        return None
    return data if len(data) <= MAX_FAILURE_BYTES else None
