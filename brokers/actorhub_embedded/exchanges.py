"""Exchanges and their bindings: the queues that a routing key leads to. Pure."""

from __future__ import annotations

from collections.abc import Iterator

KINDS = ("direct", "fanout", "topic")


class Exchange:
    """An exchange of one of the `KINDS`, with its bindings to queues."""

    def __init__(
        self, name: str, kind: str, *, durable: bool = True, auto_delete: bool = False, internal: bool = False
    ) -> None:
        self.name = name
        self.kind = kind
        self.durable = durable
        self.auto_delete = auto_delete
        self.internal = internal
        self.bindings: dict[tuple[str, str], None] = {}
        """Pairs of a queue's name and a routing key, in the order of binding."""

    def has_properties(self, kind: str, durable: bool, auto_delete: bool, internal: bool) -> bool:
        """True if a declaration with these properties means this exchange."""
        return (self.kind, self.durable, self.auto_delete, self.internal) == (kind, durable, auto_delete, internal)

    def bind(self, queue: str, key: str) -> None:
        self.bindings[queue, key] = None

    def unbind(self, queue: str, key: str) -> None:
        self.bindings.pop((queue, key), None)

    def remove_queue(self, queue: str) -> None:
        """Remove the bindings of a deleted queue."""
        for binding in [binding for binding in self.bindings if binding[0] == queue]:
            del self.bindings[binding]

    def route(self, key: str) -> Iterator[str]:
        """Names of the queues for a routing key, each once."""
        seen: set[str] = set()
        for queue, pattern in self.bindings:
            if queue not in seen and self._matches(pattern, key):
                seen.add(queue)
                yield queue

    def _matches(self, pattern: str, key: str) -> bool:
        if self.kind == "fanout":
            return True
        if self.kind == "direct":
            return pattern == key
        return topic_matches(pattern.split("."), key.split("."))


def topic_matches(pattern: list[str], words: list[str]) -> bool:
    """True if a topic pattern matches a routing key, both split into words: `*` is one word, `#` any number of them."""
    reached = {0}  # positions in `words` at which the rest of the pattern may begin
    for part in pattern:
        if part == "#":
            reached = set(range(min(reached), len(words) + 1)) if reached else set()
        else:
            reached = {at + 1 for at in reached if at < len(words) and part in ("*", words[at])}
    return len(words) in reached
