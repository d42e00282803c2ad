"""What is known of single tasks that will not run as they would: cancelled ones, and those that ended with their slots."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from actorhub.remembered import Remembered


class TaskFates(BaseModel):
    """What one tells another of tasks, by their keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cancelled: list[str] = Field(default_factory=list)
    deaths: dict[str, int] = Field(default_factory=dict)
    """How often a task has killed its slot."""
    late: dict[str, int] = Field(default_factory=dict)
    """Up to which attempt a task is late: it has held the interpreter, and its slot was killed for that."""


class Fates:
    """What an agent or a slot knows. It forgets the oldest."""

    def __init__(self) -> None:
        self.cancelled: Remembered[str, bool] = Remembered()
        self.deaths: Remembered[str, int] = Remembered()
        self.late: Remembered[str, int] = Remembered()

    def cancel(self, key: str) -> None:
        """Nobody waits for the task any more."""
        self.cancelled[key] = True

    def died(self, key: str, times: int) -> None:
        """So many slots have died while they ran the task, as far as the one knows who says so."""
        self.deaths[key] = max(times, self.deaths.get(key, 0))

    def was_late(self, key: str, attempt: int) -> None:
        """This attempt is not to be made again."""
        self.late[key] = max(attempt, self.late.get(key, 0))

    def learn(self, told: TaskFates) -> None:
        for key in told.cancelled:
            self.cancel(key)
        for key, times in told.deaths.items():
            self.died(key, times)
        for key, attempt in told.late.items():
            self.was_late(key, attempt)

    def all(self) -> TaskFates:
        return TaskFates(cancelled=list(self.cancelled), deaths=dict(self.deaths), late=dict(self.late))

    def of(self, keys: Iterable[str]) -> TaskFates:
        known = list(keys)
        return TaskFates(
            cancelled=[key for key in known if key in self.cancelled],
            deaths={key: self.deaths[key] for key in known if key in self.deaths},
            late={key: self.late[key] for key in known if key in self.late},
        )
