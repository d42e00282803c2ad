"""Ends slots that cannot end a task themselves: one that holds the interpreter in foreign code stops their event loop, too."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container

from actorhub import blackbox
from actorhub.blackbox import InHand
from actorhub.processes import Processes, WorkerProcess

log = logging.getLogger(__name__)

ROUND = 1.0  # seconds
STUCK = 2.0  # seconds without a beat after which an event loop counts as stopped


class SlotWatchdog:
    """Of one agent. `on_late` hears of each attempt that is late before its slot is killed."""

    def __init__(self, processes: Processes, cancelled: Container[str], on_late: Callable[[InHand], None]) -> None:
        self._processes = processes
        self._cancelled = cancelled
        self._on_late = on_late

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(ROUND)
            for slot in self._processes.living:
                if slot.config.kind == "task":
                    self._look(slot)

    def _look(self, slot: WorkerProcess) -> None:
        """Where its event loop runs the slot ends late and cancelled tasks itself."""
        box, now = slot.config.blackbox, time.monotonic()
        beat = blackbox.last_beat(box)
        if beat is None or now - beat < STUCK:
            return
        in_hand = blackbox.read(box)
        late = [task for task in in_hand if task.late_at is not None and task.late_at <= now]
        ended = late + [task for task in in_hand if task.call in self._cancelled and task not in late]
        if ended:
            methods = ", ".join(task.method for task in ended)
            who = f"slot {slot.config.worker} (pid {slot.pid})"
            log.warning(
                "%s is late or cancelled and holds the interpreter; %s is killed, and another comes", methods, who
            )
            for task in late:
                self._on_late(task)
            self._processes.kill(slot.config.worker)
