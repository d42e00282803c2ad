"""Reports user code that holds the event loop."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback

from actorhub.blackbox import BlackBox

log = logging.getLogger(__name__)

BLOCKED_AFTER = 1.0  # seconds that the event loop may be held before it is reported


class LoopWatch:
    """Reports an event loop that user code holds for longer than a second, with the methods in hand and the stack. The agent,
    which reads the black box, sees it, too."""

    def __init__(self, blackbox: BlackBox) -> None:
        self._blackbox = blackbox
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
            self._blackbox.beat()
            await asyncio.sleep(BLOCKED_AFTER / 4)

    def _watch(self) -> None:
        reported = 0.0
        while not self._stopped.wait(BLOCKED_AFTER / 4):
            beat = self._beat
            if time.monotonic() - beat > BLOCKED_AFTER and beat != reported:
                reported = beat
                frame = sys._current_frames().get(self._loop_thread)
                stack = "".join(traceback.format_stack(frame, limit=8)) if frame is not None else ""
                methods = ", ".join(self._blackbox.methods()) or "no method"
                log.warning(
                    "the event loop has been blocked for %.1f s by: %s; make the method `def` to run it in a thread\n%s",
                    time.monotonic() - beat,
                    methods,
                    stack,
                    extra={"blocked_by": methods},
                )
