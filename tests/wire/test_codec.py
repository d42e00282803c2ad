"""Signed pickles: what comes back, what is refused, and what an error names."""

from __future__ import annotations

import hmac
import pickle
import threading
from array import array
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorhub import NotSerialisable, UntrustedPayload
from actorhub.wire.codec import PickledParts, by_value, is_json_native, unpickled
from actorhub.wire.signer import Signer

signer = Signer("a secret")
loaded: list[str] = []


def spring(word: str) -> None:
    loaded.append(word)


class Trap:
    """Tells when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return spring, ("the trap was sprung",)


@dataclass
class Order:
    items: list[Any]
    customer: dict[str, Any]


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: object) -> None:
        self.inner = inner


PICKLABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.frozensets(st.integers()),
    max_leaves=20,
)


@given(PICKLABLE)
def test_what_is_signed_comes_back(value: object) -> None:
    back = signer.loads(signer.dumps(value, "it"))
    assert back == value
    assert type(back) is type(value)


@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(UntrustedPayload, match="not signed with this cluster's secret"):
        signer.loads(data)


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_change_of_any_one_bit_is_refused_and_nothing_is_unpickled(where: float, bit: int) -> None:
    loaded.clear()
    data = bytearray(signer.dumps(Trap(), "it"))
    data[int(where * len(data))] ^= 1 << bit
    with pytest.raises(UntrustedPayload):
        signer.loads(bytes(data))
    assert not loaded


@given(st.integers(1, 60))
def test_a_payload_that_was_cut_off_is_refused(cut: int) -> None:
    data = signer.dumps({"a": list(range(20))}, "it")
    with pytest.raises(UntrustedPayload):
        signer.loads(data[:-cut])


def test_the_trap_works() -> None:
    loaded.clear()
    signer.loads(signer.dumps(Trap(), "it"))
    assert loaded == ["the trap was sprung"]


def test_another_secret_is_refused_and_nothing_is_unpickled() -> None:
    loaded.clear()
    with pytest.raises(UntrustedPayload, match="ACTORHUB_SECRET"):
        Signer("another secret").loads(signer.dumps(Trap(), "it"))
    assert not loaded


def test_a_plain_pickle_is_refused_and_nothing_is_unpickled() -> None:
    loaded.clear()
    with pytest.raises(UntrustedPayload):
        signer.loads(pickle.dumps(Trap()))
    assert not loaded


def test_without_a_secret_nothing_is_pickled_and_nothing_unpickled() -> None:
    blank = Signer(None)
    assert not blank.trusts
    with pytest.raises(UntrustedPayload, match=r"the order does not fit JSON.*set the same ACTORHUB_SECRET"):
        blank.dumps({1}, "the order")
    with pytest.raises(UntrustedPayload, match="no secret to verify it"):
        blank.loads(signer.dumps({1}, "it"))


def test_method_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(len(a)) or compare(a, b))
    signer.loads(signer.dumps(1, "it"))
    assert compared == [32]


def test_large_buffers_travel_out_of_band_and_come_back_without_a_copy() -> None:
    data = signer.dumps(pickle.PickleBuffer(array("d", [1.5] * 10_000)), "it")
    back = memoryview(signer.loads(data))
    assert back.readonly
    assert back.obj is data, "a view of what came from the wire"
    assert back.cast("B").cast("d")[9_999] == 1.5


@given(value=PICKLABLE, buffers=st.lists(st.binary(max_size=300), max_size=5), align=st.sampled_from([1, 8, 64, 4096]))
def test_parts_begin_where_they_are_aligned_to(value: object, buffers: list[bytes], align: int) -> None:
    pickled = PickledParts([value, *map(pickle.PickleBuffer, buffers)], "it")
    data = memoryview(b"".join(pickled.pieces(align)))
    back, *views = unpickled(data, "it", align)
    assert back == value
    assert views == buffers
    count = 1 + len(buffers)
    first = 4 + 8 * count
    assert data[first + -first % align :][:2] == b"\x80\x05", "a pickle begins so"


def test_large_bytes_are_not_copied_into_the_pickle() -> None:
    large = bytes(100_000)
    assert any(piece.obj is large for piece in PickledParts({"large": large}, "it").pieces())


def test_a_buffer_that_does_not_lie_in_one_piece_is_named() -> None:
    scattered = pickle.PickleBuffer(memoryview(bytes(10))[::2])
    with pytest.raises(NotSerialisable, match=r"^it cannot be sent: PickleBuffer is not picklable"):
        PickledParts(scattered, "it")


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (threading.Lock(), "the order"),
        ({"customer": {"lock": threading.Lock()}}, "the order['customer']['lock']"),
        (Order([1, 2, threading.Lock()], {}), "the order.items[2]"),
        (Order([], {"a": (1, Slotted(threading.Lock()))}), "the order.customer['a'][1].inner"),
    ],
)
def test_what_cannot_be_pickled_is_named_by_its_path(value: object, path: str) -> None:
    with pytest.raises(NotSerialisable) as caught:
        signer.dumps(value, "the order")
    assert str(caught.value).startswith(f"{path} cannot be sent: lock is not picklable")


def test_a_value_that_contains_itself_is_named_without_end() -> None:
    ring: list[Any] = [threading.Lock()]
    ring.append(ring)
    with pytest.raises(NotSerialisable, match=r"^it\[0\] cannot be sent"):
        signer.dumps(ring, "it")


def test_a_signed_pickle_of_something_unknown_here_is_an_error_that_says_so() -> None:
    data = signer.dumps(Order([], {}), "it")
    renamed = data[33:].replace(b"Order", b"Xrder")
    with pytest.raises(NotSerialisable, match="cannot be unpickled here"):
        signer.loads(signer.sign(renamed))


@pytest.mark.parametrize("value", [1, None, True, "x", 1.5, [1, ["a"]], {"a": {"b": None}}])
def test_what_json_gives_back_is_native(value: object) -> None:
    assert is_json_native(value)


@pytest.mark.parametrize("value", [(1,), {1: 2}, float("inf"), float("nan"), b"x", {1}, [object()], {"a": (1,)}])
def test_what_json_would_change_is_not(value: object) -> None:
    assert not is_json_native(value)


def test_classes_that_nobody_can_import_travel_by_value() -> None:
    class Local: ...

    assert by_value(Local)
    assert by_value(type("Shell", (), {"__module__": "__main__"}))
    assert not by_value(Order)
