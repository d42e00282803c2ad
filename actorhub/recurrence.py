"""When a timer is due next, and what becomes of times that have passed by. Pure: `now` is given, in Unix time."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from actorhub.envelope import Timer

EARLY = 0.05  # seconds by which a timer may come early
SHORTEST = 0.001  # seconds; Unix times in floats are no finer than a millionth


def first(every: float | str, now: float) -> float:
    """The first time of what comes every so many seconds, or as a cron expression says.

    Raises:
        ValueError: it is no such expression, or the interval is below SHORTEST.
    """
    if isinstance(every, str):
        return _after(every, now)
    if not SHORTEST <= every < math.inf:
        raise ValueError(
            f"a timer cannot come every {every} s; give an interval above 0, {SHORTEST} at least, or a cron expression"
        )
    return now + every


def following(timer: Timer, now: float) -> Timer | None:
    """The timer after its time has come; None where it comes only once. Times before `now` are left out, unless all of them
    are to be caught up."""
    since = timer.due if timer.catch_up == "all" else max(timer.due, now)
    if timer.cron is not None:
        due = _after(timer.cron, since)
    elif timer.every is not None:
        steps = math.floor((since - timer.due) / timer.every) + 1
        due = timer.due + steps * timer.every
    else:
        return None
    return timer.model_copy(update={"due": due})


def is_missed(timer: Timer, now: float) -> bool:
    """Whether this time is left out: the next one has passed by already, and nothing is to be caught up."""
    if timer.catch_up != "skip" or (timer.every is None and timer.cron is None):
        return False
    following_one = following(timer.model_copy(update={"catch_up": "all"}), now)
    return following_one is not None and following_one.due <= now


def _after(cron: str, moment: float) -> float:
    try:
        return next(CronSim(cron, datetime.fromtimestamp(moment, UTC))).timestamp()
    except (CronSimError, StopIteration) as exc:
        raise ValueError(f"{cron!r} is no cron expression that ever comes; write it as in '*/5 * * * *'") from exc
