"""Requirements of a task for its slot: resources, node, labels and bundle. Pure."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict

from actorhub.core.resources import Resources

# Hexadecimal digits. Two requirements of one queue with the same digest would share their slots.
DIGEST_CHARACTERS = 10


class Bundle(BaseModel):
    """A part of a placement group, by its index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str
    index: int


class Requirements(BaseModel):
    """Requirements of a task for its slot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resources: Resources = {}
    node: str | None = None
    """Id of the only node that may run it."""
    labels: dict[str, str] = {}
    """Labels that its node must have."""
    prefer: dict[str, str] = {}
    """Labels that its node should have."""
    bundle: Bundle | None = None
    """Bundle of a placement group to run in; it determines the node."""

    @property
    def any(self) -> bool:
        """True if anything is required; a task without requirements may run in every slot."""
        return bool(self.resources or self.node or self.labels or self.prefer or self.bundle)

    @property
    def wanted(self) -> dict[str, float]:
        """Amounts to reserve; one cpu if no resources are named."""
        return self.resources or {"cpu": 1.0}

    @property
    def suffix(self) -> str:
        """Suffix of the task queue's name, so that all tasks of one queue have the same requirements.

        Empty if nothing is required.
        """
        if not self.any:
            return ""
        canonical = self.model_copy(
            update={name: dict(sorted(getattr(self, name).items())) for name in ("resources", "labels", "prefer")}
        )
        return f".{hashlib.sha256(canonical.model_dump_json().encode()).hexdigest()[:DIGEST_CHARACTERS]}"

    def __str__(self) -> str:
        """Describe the requirements in words: `cpu 1, gpu 1 on node a`."""
        said = [", ".join(f"{name} {amount:g}" for name, amount in self.wanted.items())]
        said += [f"in bundle {self.bundle.index} of {self.bundle.group}"] if self.bundle is not None else []
        said += [f"on node {self.node}"] if self.node is not None else []
        said += [f"with {name}={value}" for name, value in self.labels.items()]
        return " ".join(said)


NO_REQUIREMENTS = Requirements()
"""No requirements: may run in any slot."""
