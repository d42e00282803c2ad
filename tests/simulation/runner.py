"""Runs worlds until one breaks a promise."""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Iterable
from dataclasses import dataclass

from actorhub.durable.protocol import owner
from tests.simulation.rules import Parts
from tests.simulation.world import World

SMALL_LIMITS = {"BATCH_MESSAGES": 2, "MAX_COMMITS_IN_FLIGHT": 3, "MAX_DESTINATIONS": 2}
"""Limits of the owner, so small that short histories reach them."""


@dataclass(frozen=True)
class Failure:
    """A seed whose world broke a promise, with a trace of what happened before."""

    mutant: str
    seed: int
    error: str
    trace: tuple[str, ...]

    def report(self, tail: int = 60) -> str:
        option = f" --mutant {shlex.quote(self.mutant)}" if self.mutant != "true" else ""
        again = f"python -m tests.simulation --seeds 1 --first {self.seed}{option} --tail {len(self.trace)}"
        return "\n".join((*self.trace[-tail:], f"seed {self.seed}: {self.error}", f"for the whole trace: {again}"))


def search(parts: Parts, seeds: Iterable[int]) -> Failure | None:
    """The first of these seeds whose world breaks a promise; None if there is none."""
    saved = {name: getattr(owner, name) for name in SMALL_LIMITS}
    for name, limit in SMALL_LIMITS.items():
        setattr(owner, name, limit)
    try:
        for seed in seeds:
            if _error(World(seed, parts)):
                world = World(seed, parts, traced=True)
                error = _error(world)
                assert error, f"seed {seed} failed, and not the second time"
                return Failure(parts.name, seed, error, tuple(world.trace))
        return None
    finally:
        for name, limit in saved.items():
            setattr(owner, name, limit)


def _error(world: World) -> str:
    try:
        world.run()
    except AssertionError as exc:
        return f"{exc}" or traceback.format_exc()
    except Exception:
        return traceback.format_exc()
    return ""
