"""Actor that returns its argument. Every node knows its class, so that any cluster can be measured."""

from __future__ import annotations

from actorhub.actors.actor import actor


@actor
class Echo:
    """Replies with its argument."""

    async def echo(self, text: str) -> str:
        return text

    async def hear(self, text: str) -> None:
        """Take a tell, and do nothing."""
