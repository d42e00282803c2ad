"""ActorHub for code without an event loop: scripts, notebooks, Django, Flask, and the threads of `def` methods.

    from actorhub.blocking import Hub

    with Hub() as hub:
        counter = hub.spawn(Counter, 10)
        hub.ask(counter.add, 5)
        hub.tell(counter.add, 1)

A hub runs an event loop in a thread of its own. It is thread-safe. After a fork the child connects again, as another
session: handles still work in it, pending calls belong to the parent.
"""

from __future__ import annotations

from actorhub.blocking.hub import Chain, Hub
from actorhub.blocking.portal import SentCall, SetTimer

__all__ = ["Chain", "Hub", "SentCall", "SetTimer"]
