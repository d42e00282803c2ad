"""Streams: append-only logs that consumers read from any offset. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from actorhub_embedded.messages import Message
from actorhub_embedded.queues import Consumer, Entry, Queue, QueueArguments


class Stream(Queue):
    """A queue that keeps what was read. Acknowledging makes room in a consumer's prefetch; `x-max-length-bytes` drops the
    oldest messages."""

    def __init__(self, name: str, arguments: QueueArguments, *, now: float) -> None:
        super().__init__(name, arguments, durable=True, auto_delete=False, exclusive_to=None, now=now)
        self._log: list[Entry] = []
        self._dropped = 0  # entries at the front of `_log` that were dropped and not removed yet

    def __len__(self) -> int:
        return len(self._log) - self._dropped

    @property
    def _first(self) -> int:
        """The oldest message's offset; the next message's if the stream is empty."""
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

    def requeue(self, entry: Entry, *, last: bool = False) -> None:
        """Do nothing: delivering removed nothing."""

    def discard(self, entry: Entry) -> None:
        """Do nothing: an acknowledged message stays."""

    def purge(self) -> int:
        count = len(self)
        self._log.clear()
        self._dropped = 0
        self.size = 0
        return count

    def head(self) -> Entry | None:
        return None

    def attach(self, consumer: Consumer, offset: object) -> None:
        """Let a consumer begin at `first`, `last` (the newest message), `next` (new messages only) or a number.

        Raises:
            ValueError: the offset is none of these.
        """
        if offset is None or offset == "next":
            consumer.offset = self._next
        elif offset == "first":
            consumer.offset = self._first
        elif offset == "last":
            consumer.offset = max(self._first, self._next - 1)
        elif isinstance(offset, int) and not isinstance(offset, bool) and offset >= 0:
            consumer.offset = max(offset, self._first)
        else:
            raise ValueError(f"x-stream-offset must be first, last, next or a number, not {offset!r}")

    def take_deliverable(self) -> Iterator[tuple[Consumer, Entry]]:
        for consumer in self.consumers[:1] if self.arguments.single_active else list(self.consumers):
            consumer.offset = max(consumer.offset, self._first)
            while consumer.offset < self._next and consumer.has_room:
                entry = self._log[self._dropped + consumer.offset - self._first]
                consumer.unacknowledged += 1
                consumer.offset += 1
                yield consumer, entry

    @property
    def is_timed(self) -> bool:
        return False
