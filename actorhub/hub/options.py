"""What a view of a hub adds to what is spawned, found, submitted or looked at through it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from actorhub.control_api.requirements import NO_REQUIREMENTS, Bundle, Requirements
from actorhub.core.resources import Resources
from actorhub.tasks.task import HIGHEST_PRIORITY


class Options(BaseModel):
    """See `Hub.options`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = None
    namespace: str = "default"
    get_if_exists: bool = False
    lifetime: Literal["session", "detached"] = "session"
    resources: Resources | None = None
    node: str | None = None
    labels: dict[str, str] = {}
    prefer: dict[str, str] = {}
    placement: Bundle | None = None
    max_restarts: int | None = None
    priority: int | None = Field(default=None, ge=0, le=HIGHEST_PRIORITY)
    delay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    catch_up: Literal["skip", "once", "all"] = "once"

    @property
    def place(self) -> Requirements:
        """What tasks ask for, beside resources."""
        if not (self.node or self.labels or self.prefer or self.placement):
            return NO_REQUIREMENTS
        return Requirements(node=self.node, labels=self.labels, prefer=self.prefer, bundle=self.placement)
