"""The wire format: plain JSON for one envelope, a batch for many."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorhub.errors import InvalidEnvelope
from actorhub.wire.envelope import BATCH, SINGLE, Codec, EncodedEnvelope, Envelope, Hop, Kind, decode, encode

envelopes = st.builds(
    Envelope,
    id=st.text(max_size=20),
    kind=st.sampled_from(Kind),
    method=st.text(max_size=10),
    sender=st.text(max_size=10),
    seq=st.integers(0, 2**53),
    acked_below=st.integers(0, 2**53),
    deadline=st.none() | st.floats(0, 1e12),
    chain=st.lists(st.builds(Hop, actor=st.text(max_size=5), call=st.text(max_size=5)), max_size=3).map(tuple),
)
json_payloads = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())


def test_one_envelope_with_a_json_payload_is_plain_json() -> None:
    body, content_type = encode([(Envelope(id="a-1", method="add"), b'{"amount":5}')])
    assert content_type == SINGLE
    assert json.loads(body) == {"id": "a-1", "method": "add", "payload": {"amount": 5}}


def test_what_another_language_sends_is_an_envelope() -> None:
    [(envelope, payload)] = decode(b'{"method": "add", "payload": {"amount": 5}}', "application/json")
    assert (envelope.kind, envelope.method, payload) == (Kind.CALL, "add", b'{"amount":5}')


def test_a_pickled_payload_travels_as_a_batch() -> None:
    parcel = (Envelope(id="a-1", codec=Codec.PICKLE), b"\x80\x05N.")
    body, content_type = encode([parcel])
    assert content_type == BATCH
    [(envelope, payload)] = decode(body, content_type)
    assert (envelope.codec, payload) == (Codec.PICKLE, b"\x80\x05N.")


@given(st.lists(st.tuples(envelopes, json_payloads), min_size=1, max_size=5))
def test_what_is_encoded_is_decoded(parcels: list[EncodedEnvelope]) -> None:
    decoded = decode(*encode(parcels))
    assert [envelope.model_dump(exclude={"size", "payload"}) for envelope, _ in decoded] == [
        envelope.model_dump(exclude={"size"}) for envelope, _ in parcels
    ]
    assert [json.loads(payload) for _, payload in decoded] == [json.loads(payload) for _, payload in parcels]


@given(st.binary(max_size=200), st.sampled_from([SINGLE, BATCH, None, "text/plain"]))
def test_random_bytes_are_refused_with_one_kind_of_error(body: bytes, content_type: str | None) -> None:
    try:
        decode(body, content_type)
    except InvalidEnvelope:
        pass


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'{"v": 2}', b'{"metod": "add"}', b'{"seq": -1}', b'{"kind": "shout"}', b"\xff\xfe"],
)
def test_a_body_that_is_no_envelope_is_refused_with_its_size(body: bytes) -> None:
    with pytest.raises(InvalidEnvelope, match=f"{len(body)} bytes"):
        decode(body, SINGLE)


def test_a_batch_that_was_cut_off_is_refused() -> None:
    body, content_type = encode([(Envelope(id=str(n)), b'{"n":1}') for n in range(3)])
    for end in range(len(body)):
        with pytest.raises(InvalidEnvelope):
            decode(body[:end], content_type)
