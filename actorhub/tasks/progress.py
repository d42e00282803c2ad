"""Progress bar of a task map, on standard error."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class ProgressBar:
    """Progress bar on standard error: results read, of those known to come."""

    def __init__(self) -> None:
        columns = (TextColumn("tasks"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("tasks", total=0)
        self._read = 0
        self._progress.start()

    def expect(self, unread: int) -> None:
        self._progress.update(self._task, total=self._read + unread)

    def advance(self) -> None:
        self._read += 1
        self._progress.update(self._task, completed=self._read)

    def stop(self) -> None:
        self._progress.stop()
