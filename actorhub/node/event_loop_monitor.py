"""Monitor of a worker's event loop: reports calls that block it, and records its heartbeat for the agent."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback

from actorhub.core.in_flight import InFlightRecorder

log = logging.getLogger(__name__)

# Seconds for which the event loop may be held before it is reported.
BLOCKED_AFTER_SECONDS = 1.0


class EventLoopMonitor:
    """Monitor that logs an event loop held by user code for longer than a second, with running methods and stack.

    It also records the loop's heartbeat in the in-flight record, which the agent reads.
    """

    def __init__(self, recorder: InFlightRecorder) -> None:
        self._recorder = recorder
        self._beat = time.monotonic()
        self._loop_thread = threading.get_ident()
        self._task = asyncio.get_running_loop().create_task(self._keep_beating())
        self._stopped = threading.Event()
        threading.Thread(target=self._watch, name="actorhub-loop-watch", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._task.cancel()

    async def _keep_beating(self) -> None:
        while True:
            self._beat = time.monotonic()
            self._recorder.beat()
            await asyncio.sleep(BLOCKED_AFTER_SECONDS / 4)

    def _watch(self) -> None:
        reported = 0.0
        while not self._stopped.wait(BLOCKED_AFTER_SECONDS / 4):
            beat = self._beat
            if time.monotonic() - beat > BLOCKED_AFTER_SECONDS and beat != reported:
                reported = beat
                frame = sys._current_frames().get(self._loop_thread)
                stack = "".join(traceback.format_stack(frame, limit=8)) if frame is not None else ""
                methods = ", ".join(self._recorder.methods()) or "no method"
                log.warning(
                    "the event loop has been blocked for %.1f s by: %s; make the method `def` to run it in a thread\n%s",
                    time.monotonic() - beat,
                    methods,
                    stack,
                    extra={"blocked_by": methods},
                )
