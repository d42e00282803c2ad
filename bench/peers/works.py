"""Kinds of work that are compared, by their names in the table. Uses only the standard library, as the peers' scripts do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Work(StrEnum):
    """One kind of work that ActorHub and at least one peer do."""

    TASKS = "no-op tasks with results, 1 worker process"
    TASKS_WITHOUT_RESULTS = "no-op tasks without results, 1 worker process"
    ROUND_TRIPS = "one task submitted and awaited"
    CALL = "actor call, 1 outstanding"
    CALLS = "actor calls, 1,000 outstanding"
    DURABLE_CALLS = "durable actor calls, 1,000 outstanding"
    PUT = "put of an array of 100 MB, while all others are kept"
    PUT_AGAIN = "put of an array of 100 MB, after another was freed"
    GET = "get of such an array, by the process that put it"
    GET_ELSEWHERE = "get of such an array, by another process"


@dataclass(frozen=True)
class Unit:
    """Format of a figure, and whether a smaller one is better."""

    form: str
    less_is_better: bool = False


RATE = Unit("{:,.0f} /s")
BANDWIDTH = Unit("{:.2f} GB/s")
MILLISECONDS = Unit("{:.2f} ms", less_is_better=True)
UNITS = {
    **dict.fromkeys(Work, RATE),
    Work.PUT: BANDWIDTH,
    Work.PUT_AGAIN: BANDWIDTH,
    Work.GET: MILLISECONDS,
    Work.GET_ELSEWHERE: MILLISECONDS,
}
