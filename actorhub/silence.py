"""Control that does not answer: what is asked of it waits as long as it takes, and the log says so."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds
AGAIN = 60.0  # seconds for which the log says it once


class Silence:
    """`is_heard`: whether what is asked reaches the broker."""

    def __init__(self, is_heard: Callable[[], bool]) -> None:
        self._is_heard = is_heard
        self._said = -AGAIN

    def asked(self, answer: asyncio.Future[Any], label: str) -> None:
        timer = answer.get_loop().call_later(PATIENCE, self._say, label)
        answer.add_done_callback(lambda _: timer.cancel())

    def _say(self, label: str) -> None:
        now = time.monotonic()
        if self._is_heard() and now - self._said >= AGAIN:
            self._said = now
            log.warning(
                "%s has had no answer for %g s: does a node run? It waits for one; start one with `actorhub node MODULE`",
                label,
                PATIENCE,
            )
