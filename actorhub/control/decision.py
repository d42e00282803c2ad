"""Decision on one event: the commands that follow from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from actorhub.control_api.commands import Command


@dataclass(slots=True)
class Decision:
    """The commands that follow from one event. It is passed down to everything that decides, and each adds its own."""

    now: float
    """Control's clock at the event, in seconds."""
    commands: list[Command] = field(default_factory=list)
    """In the order in which they are to be carried out."""

    def emit(self, command: Command) -> None:
        self.commands.append(command)
