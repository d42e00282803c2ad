"""Signer of pickled payloads: keyed BLAKE2b with the cluster's secret, verified before anything is unpickled."""

from __future__ import annotations

import hmac
from hashlib import blake2b
from typing import Any

from actorhub.errors import UntrustedPayload
from actorhub.wire.codec import PickledParts, unpickled

_VERSION = b"\x01"
_DIGEST_BYTES = 32
_HOW = "set the same ACTORHUB_SECRET for every process of the cluster"


class Signer:
    """Signs pickles with one secret, and verifies them before it unpickles. Without a secret it refuses both."""

    def __init__(self, secret: str | None) -> None:
        self._key = blake2b(secret.encode(), person=b"actorhub-pickle").digest() if secret else None

    @property
    def trusts(self) -> bool:
        """True if there is a secret, so that pickles can travel."""
        return self._key is not None

    def dumps(self, value: object, what: str) -> bytes:
        """Pickle and sign a value, which `what` names in errors.

        Raises:
            UntrustedPayload: there is no secret.
            NotSerialisable: names the part that cannot be pickled.
        """
        return self.seal(self.pickled(value, what))

    def pickled(self, value: object, what: str) -> PickledParts:
        """Pickle a value without signing it, so that its size is known before `seal`.

        Raises:
            UntrustedPayload: there is no secret.
            NotSerialisable: names the part that cannot be pickled.
        """
        if self._key is None:
            raise UntrustedPayload(f"{what} does not fit JSON and would travel as a signed pickle; {_HOW}")
        return PickledParts(value, what)

    def seal(self, pickled: PickledParts) -> bytes:
        return self.sign(b"".join(pickled.pieces()))

    def sign(self, pieces: bytes) -> bytes:
        """Sign the joined pieces of a `PickledParts`, for `loads`."""
        assert self._key is not None, "`pickled` has seen the secret"
        return _VERSION + self._digest(pieces, self._key) + pieces

    def loads(self, data: bytes | bytearray) -> Any:
        """Verify and unpickle. Buffers are views of `data`: arrays are read without copying, and are read-only if
        `data` is.

        Raises:
            UntrustedPayload: unsigned, wrongly signed, cut off, or there is no secret here.
            NotSerialisable: its classes cannot be imported here, or raise while they are loaded.
        """
        if self._key is None:
            raise UntrustedPayload(f"a pickled payload arrived, and this process has no secret to verify it; {_HOW}")
        signed = memoryview(data)[1 + _DIGEST_BYTES :]
        if data[:1] != _VERSION or not hmac.compare_digest(
            data[1 : 1 + _DIGEST_BYTES], self._digest(signed, self._key)
        ):
            raise UntrustedPayload(
                f"a pickled payload of {len(data)} bytes is not signed with this cluster's secret; {_HOW}"
            )
        return unpickled(signed, "a signed payload")

    @staticmethod
    def _digest(signed: bytes | memoryview, key: bytes) -> bytes:
        return blake2b(signed, key=key, digest_size=_DIGEST_BYTES).digest()
