"""Status of single tasks that will not run as usual: cancelled ones, and those that ended with their slots."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

K = TypeVar("K")
V = TypeVar("V")

# Entries that a `BoundedDict` keeps.
MAX_TASKS = 10_000


class BoundedDict(OrderedDict[K, V]):
    """Dictionary that keeps the newest entries; an entry that is set again counts as new."""

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > MAX_TASKS:
            self.popitem(last=False)


class TaskStatusReport(BaseModel):
    """Statuses of tasks, by the tasks' keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cancelled: list[str] = Field(default_factory=list)
    deaths: dict[str, int] = Field(default_factory=dict)
    """Number of slots that each task has killed."""
    late: dict[str, int] = Field(default_factory=dict)
    """The last attempt of each task that timed out: it held the interpreter, and its slot was killed for that."""


class TaskStatusTable:
    """Statuses of tasks that an agent or a slot knows; the oldest are forgotten."""

    def __init__(self) -> None:
        self.cancelled: BoundedDict[str, bool] = BoundedDict()
        self.deaths: BoundedDict[str, int] = BoundedDict()
        self.late: BoundedDict[str, int] = BoundedDict()

    def cancel(self, key: str) -> None:
        """Record that the task is cancelled: no caller waits for it any more."""
        self.cancelled[key] = True

    def died(self, key: str, times: int) -> None:
        """Record the number of slots that died while they ran the task, as far as the sender knows."""
        self.deaths[key] = max(times, self.deaths.get(key, 0))

    def record_timeout(self, key: str, attempt: int) -> None:
        """Record that this attempt timed out; it is not repeated."""
        self.late[key] = max(attempt, self.late.get(key, 0))

    def learn(self, told: TaskStatusReport) -> None:
        for key in told.cancelled:
            self.cancel(key)
        for key, times in told.deaths.items():
            self.died(key, times)
        for key, attempt in told.late.items():
            self.record_timeout(key, attempt)

    def all(self) -> TaskStatusReport:
        return TaskStatusReport(cancelled=list(self.cancelled), deaths=dict(self.deaths), late=dict(self.late))

    def of(self, keys: Iterable[str]) -> TaskStatusReport:
        known = list(keys)
        return TaskStatusReport(
            cancelled=[key for key in known if key in self.cancelled],
            deaths={key: self.deaths[key] for key in known if key in self.deaths},
            late={key: self.late[key] for key in known if key in self.late},
        )
