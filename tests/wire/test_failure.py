"""Exceptions on the wire: the caller gets the type it knows, and never an import by name."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorhub import ActorDied, CallTimeout, InvalidEnvelope, RemoteError
from actorhub.wire.failure import MAX_TEXT_BYTES, Failure
from actorhub.wire.signer import Signer

signer = Signer("a secret")
blank = Signer(None)


class Plain(Exception): ...


class Rich(Exception):
    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code, self.hint = code, hint


@dataclass(frozen=True)
class Frozen(Exception): ...


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def travel(error: BaseException, *, sender: Signer = signer, receiver: Signer = signer) -> Exception:
    return Failure.decode(Failure.of(error, sender).encode()).to_exception(receiver)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as exc:
        return exc


@pytest.mark.parametrize("signers", [(signer, signer), (blank, blank), (signer, blank)])
@given(args=st.lists(st.none() | st.integers() | st.text(), max_size=3))
def test_an_exception_of_plain_arguments_comes_back_with_or_without_a_secret(
    signers: tuple[Signer, Signer], args: list[Any]
) -> None:
    back = travel(Plain(*args), sender=signers[0], receiver=signers[1])
    assert type(back) is Plain
    assert list(back.args) == args


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


class Closed(Exception):
    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        raise RuntimeError("nobody looks inside")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a name that is no UTF-8: \udcff"),
        ValueError({"\udcff": 1}),
        ValueError(10**5000),
        ValueError(_circle()),
        ValueError("x" * 20_000_000),
        ValueError([["x" * 1000] * 20_000]),
        Closed("text"),
    ],
    ids=lambda error: type(error.args[0]).__name__,
)
@pytest.mark.parametrize("secret", [signer, blank])
def test_an_exception_travels_whatever_its_arguments_are_and_is_never_large(error: Exception, secret: Signer) -> None:
    failure = Failure.of(raised(error), secret)
    assert len(failure.encode()) < 2**20
    assert isinstance(travel(raised(error), sender=secret), type(error) | RemoteError)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_what_ends_loops_comes_back_as_what_does_not(kind: type[Exception]) -> None:
    """A future takes no StopIteration, and `async for` would end with the other as if nothing had failed."""
    back = travel(raised(kind("over")))
    assert isinstance(back, RemoteError)
    assert f"builtins:{kind.__name__}: over" in str(back)


def test_an_exception_that_takes_no_notes_comes_back_with_its_traceback() -> None:
    back = travel(raised(Frozen()))
    assert isinstance(back, RemoteError)
    assert "in raised" in "".join(back.__notes__)


def test_an_exception_with_attributes_comes_back_whole_by_its_signed_pickle() -> None:
    error = Plain("text")
    error.code = 7  # type: ignore[attr-defined]
    back = travel(error)
    assert type(back) is Plain
    assert (back.args, vars(back)["code"]) == (("text",), 7)
    back = travel(KeyError(("a", 1)))
    assert (type(back), back.args) == (KeyError, (("a", 1),))


def test_what_cannot_be_rebuilt_is_a_remote_error_with_type_and_message() -> None:
    back = travel(Rich(7, hint="try again"), sender=blank, receiver=blank)
    assert type(back) is RemoteError
    assert str(back) == "tests.wire.test_failure:Rich: code 7"
    assert back.type_name == "tests.wire.test_failure:Rich"


def test_a_type_that_is_not_imported_here_is_not_imported() -> None:
    assert "antigravity" not in sys.modules
    failure = Failure(type="antigravity:Error", message="up", args=[])
    assert type(failure.to_exception(signer)) is RemoteError
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("name", ["os:system", "builtins:exit", "builtins:SystemExit", "builtins:print", "x", ":", ""])
def test_a_name_on_the_wire_calls_nothing_but_exceptions(name: str) -> None:
    assert type(Failure(type=name, message="m", args=["echo"]).to_exception(signer)) is RemoteError


def test_the_remote_traceback_is_in_the_notes() -> None:
    back = travel(raised(Plain("x")))
    [note] = back.__notes__
    assert note.startswith("remote traceback:\nTraceback")
    assert "in raised" in note


def test_errors_of_the_library_come_back_as_themselves() -> None:
    for error in (ActorDied("by fire"), CallTimeout("late")):
        back = travel(error)
        assert type(back) is type(error)
        assert str(back) == str(error)


def test_no_exception_is_too_strange_to_be_told() -> None:
    assert "cannot be shown" in Failure.of(raised(Unprintable()), signer).message
    assert len(Failure.of(Plain("x" * 10 * MAX_TEXT_BYTES), signer).message) == MAX_TEXT_BYTES
    ring = Plain("a")
    ring.__cause__ = Plain("b")
    ring.__cause__.__cause__ = ring
    assert type(travel(raised(ring))) is Plain


def test_a_forged_pickle_is_never_loaded() -> None:
    forged = Failure.of(Plain("x"), signer).model_copy(update={"pickled": b"cos\nsystem\n(S'false'\ntR."})
    assert type(forged.to_exception(signer)) is RemoteError


@given(st.binary(max_size=100))
def test_random_bytes_are_refused_with_one_kind_of_error(data: bytes) -> None:
    with pytest.raises(InvalidEnvelope, match=f"a failure of {len(data)} bytes"):
        Failure.decode(data)
