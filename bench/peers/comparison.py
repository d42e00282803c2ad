"""Comparison of ActorHub's figures with those of peers, as a Markdown table. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench.peers.works import UNITS, Work

# ActorHub's figure must be this many times the peer's.
TARGETS = {
    (Work.CALLS, "Ray"): 5.0,
    (Work.DURABLE_CALLS, "Ray"): 3.0,
    (Work.TASKS, "Ray"): 4.0,
    (Work.TASKS, "Celery"): 10.0,
    (Work.TASKS_WITHOUT_RESULTS, "Dramatiq"): 1.5,
    (Work.ROUND_TRIPS, "Ray"): 1.5,
    (Work.PUT, "Ray"): 1.0,
}


@dataclass(frozen=True)
class Peer:
    """Result of one peer: version, settings and figures, or the problem that prevented them."""

    name: str
    version: str = ""
    how: str = ""
    figures: Mapping[Work, float] = field(default_factory=dict)
    problem: str = ""

    def with_output(self, output: str) -> Peer:
        """Add the report that another script of this peer printed as its last line.

        Raises:
            ValueError: the line is not a report.
        """
        lines = output.splitlines() or [""]
        found = json.loads(lines[-1])
        figures = {Work(work): float(figure) for work, figure in found["figures"].items()}
        return replace(
            self,
            version=found["version"],
            how=f"{self.how}; {found['how']}" if self.how else found["how"],
            figures={**self.figures, **figures},
        )

    def __str__(self) -> str:
        return f"{self.name} {self.version}".rstrip()


@dataclass(frozen=True)
class Line:
    """One line of the table. `met` is None without a target, or without a figure of ActorHub."""

    work: str
    ours: str = ""
    peer: str = ""
    ratio: str = ""
    target: str = ""
    met: bool | None = None

    def __str__(self) -> str:
        mark = {True: "met", False: "**missed**", None: ""}[self.met]
        return f"| {self.work} | {self.ours} | {self.peer} | {self.ratio} | {self.target} | {mark} |"


def compare(ours: Mapping[Work, float], peers: Sequence[Peer]) -> list[Line]:
    """Return a line for each kind of work and each peer that does it, then a line for each peer with a problem."""
    lines = [_line(work, ours.get(work), peer) for work in Work for peer in peers if work in peer.figures]
    return lines + [Line(str(peer), peer=peer.problem) for peer in peers if peer.problem]


def _line(work: Work, ours: float | None, peer: Peer) -> Line:
    unit, theirs = UNITS[work], peer.figures[work]
    target = TARGETS.get((work, peer.name))
    wanted = f"{target:g} x" if target else ""
    beside = f"{peer}: {unit.form.format(theirs)}"
    if ours is None:
        return Line(work, "not measured", beside, target=wanted)
    ratio = theirs / ours if unit.less_is_better else ours / theirs
    return Line(work, unit.form.format(ours), beside, f"{ratio:.2f} x", wanted, ratio >= target if target else None)


def table(ours: Mapping[Work, float], peers: Sequence[Peer]) -> str:
    """Return the table, followed by the settings of the peers. A ratio above 1 is in favour of ActorHub."""
    lines = ["| work | ours | peer | ratio | target | |", "|---|---|---|---|---|---|"]
    lines += [str(line) for line in compare(ours, peers)]
    settings = [f"- {peer}: {peer.how}" for peer in peers if peer.how]
    return "\n".join([*lines, "", *settings])
