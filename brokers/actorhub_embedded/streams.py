"""Streams: an append-only log that many read, each from where it likes. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from actorhub_embedded.messages import Message
from actorhub_embedded.queues import Consumer, Entry, Queue, QueueArguments


class Stream(Queue):
    """Reading removes nothing; acknowledging gives the reader room. `x-max-length-bytes` drops the oldest."""

    def __init__(self, name: str, arguments: QueueArguments, *, now: float) -> None:
        super().__init__(name, arguments, durable=True, auto_delete=False, exclusive_to=None, now=now)
        self._log: list[Entry] = []
        self._dropped = 0  # entries at the front of `_log` that are gone, and not yet cut off

    def __len__(self) -> int:
        return len(self._log) - self._dropped

    @property
    def _first(self) -> int:
        """The oldest offset that there is; the next one where there is none."""
        return self._next - len(self)

    def push(self, message: Message, now: float) -> None:
        self._log.append(Entry(message, self._next, None))
        self._next += 1
        self.size += message.size
        limit = self.arguments.max_length_bytes
        while limit is not None and len(self) > 1 and self.size > limit:
            self.size -= self._log[self._dropped].message.size
            self._dropped += 1
        if self._dropped > len(self._log) // 2:
            del self._log[: self._dropped]
            self._dropped = 0

    def is_full(self) -> bool:
        return False

    def is_overfull(self) -> bool:
        return False

    def give_back(self, entry: Entry, *, last: bool = False) -> None:
        """Nothing was taken."""

    def done(self, entry: Entry) -> None:
        """It stays."""

    def purge(self) -> int:
        count = len(self)
        self._log.clear()
        self._dropped = 0
        self.size = 0
        return count

    def head(self) -> Entry | None:
        return None

    def begin(self, consumer: Consumer, offset: object) -> None:
        """`first`, `last` (the newest message), `next` (only what comes), or a number.

        Raises:
            ValueError: anything else.
        """
        if offset is None or offset == "next":
            consumer.at = self._next
        elif offset == "first":
            consumer.at = self._first
        elif offset == "last":
            consumer.at = max(self._first, self._next - 1)
        elif isinstance(offset, int) and not isinstance(offset, bool) and offset >= 0:
            consumer.at = max(offset, self._first)
        else:
            raise ValueError(f"x-stream-offset is first, last, next or a number, not {offset!r}")

    def deliver(self) -> Iterator[tuple[Consumer, Entry]]:
        for consumer in self.consumers[:1] if self.arguments.single_active else list(self.consumers):
            consumer.at = max(consumer.at, self._first)
            while consumer.at < self._next and consumer.has_room:
                entry = self._log[self._dropped + consumer.at - self._first]
                consumer.in_hand += 1
                consumer.at += 1
                yield consumer, entry

    @property
    def is_timed(self) -> bool:
        return False
