"""What a task asks of the place that it runs in. Pure."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict

from actorhub.core.resources import Resources

DIGEST = 10  # hexadecimal digits; two needs of one queue that share them would share their slots


class Bundle(BaseModel):
    """A part of a placement group, by its index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str
    index: int


class Requirements(BaseModel):
    """`node`, `labels`: the id that the node must have, and its labels; `prefer`: labels that it should have. In a `bundle`,
    where it runs is settled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resources: Resources = {}
    node: str | None = None
    labels: dict[str, str] = {}
    prefer: dict[str, str] = {}
    bundle: Bundle | None = None

    @property
    def any(self) -> bool:
        """Whether it asks for anything at all: what does not may run in every slot."""
        return bool(self.resources or self.node or self.labels or self.prefer or self.bundle)

    @property
    def wanted(self) -> dict[str, float]:
        """One cpu, where no resources are named."""
        return self.resources or {"cpu": 1.0}

    @property
    def suffix(self) -> str:
        """What is added to the name of a task queue, so that all tasks in one queue ask for the same; empty where nothing is
        asked."""
        if not self.any:
            return ""
        canonical = self.model_copy(
            update={name: dict(sorted(getattr(self, name).items())) for name in ("resources", "labels", "prefer")}
        )
        return f".{hashlib.sha256(canonical.model_dump_json().encode()).hexdigest()[:DIGEST]}"

    def __str__(self) -> str:
        """In words: `cpu 1, gpu 1 on node a`."""
        said = [", ".join(f"{name} {amount:g}" for name, amount in self.wanted.items())]
        said += [f"in bundle {self.bundle.index} of {self.bundle.group}"] if self.bundle is not None else []
        said += [f"on node {self.node}"] if self.node is not None else []
        said += [f"with {name}={value}" for name, value in self.labels.items()]
        return " ".join(said)


NO_REQUIREMENTS = Requirements()
"""Asks for nothing."""
