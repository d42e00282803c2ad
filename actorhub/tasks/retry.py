"""Retry policy of a task. No I/O.

A policy consists of tenacity's strategies (https://tenacity.readthedocs.io): `wait_*`, `stop_*` and `retry_if_*`.
Between attempts the task waits at the broker and occupies no worker.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_never, wait_none
from tenacity.retry import retry_base
from tenacity.stop import stop_base
from tenacity.wait import wait_base


@dataclass(frozen=True)
class Retry:
    """Retry policy of a task that raised.

    A task is tried again while it has attempts left, `stop` does not end it, and `retry` accepts its exception.
    """

    attempts: int = 3
    """Attempts at most, including the first."""
    wait: wait_base = wait_none()  # noqa: RUF009 - it has no state
    """Tenacity's strategy for the pause before the next attempt."""
    stop: stop_base = stop_never
    """Tenacity's strategy that ends the attempts."""
    retry: retry_base = retry_if_exception_type(Exception)  # noqa: RUF009 - it has no state
    """Tenacity's strategy that chooses the exceptions to retry."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts={self.attempts} is not valid; the first attempt counts, so give 1 or more")

    def next_delay(self, attempt: int, error: BaseException, age: float) -> float | None:
        """Seconds until the next attempt; None if the task is not tried again.

        Args:
            attempt: number of the attempt that failed, from 1.
            error: the exception that it raised.
            age: seconds since the first attempt began.

        Raises:
            Exception: any that the strategies raise.
            ValueError: the pause is not a finite number of seconds.
        """
        if attempt >= self.attempts:
            return None
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = attempt
        state.set_exception((type(error), error, error.__traceback__))
        state.start_time = time.monotonic() - age
        state.outcome_timestamp = time.monotonic()
        if not self.retry(state):
            return None
        pause = float(self.wait(state))
        if not math.isfinite(pause):
            raise ValueError(f"the retry policy waits for {pause} s; give it a finite number of seconds")
        state.upcoming_sleep = max(0.0, pause)
        return None if self.stop(state) else state.upcoming_sleep
