"""The oracle: sees all that the broker stores, and checks the promises of durable mailboxes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache

from actorhub.durable.protocol.records import Commit, Record
from actorhub.wire.envelope import BATCH, decode
from actorhub_embedded.messages import Message
from tests.simulation import bank
from tests.simulation.client import Client
from tests.simulation.fencing import Rule
from tests.simulation.network import INBOX, JOURNAL, NOWHERE, Broken, Server, properties

Tell = tuple[str, int, str]


class Oracle:
    """Follows the commits that count. Raises `Broken` as soon as a promise is broken."""

    def __init__(self, rule: Rule, decode_record: Callable[[bytes], Record | None], say: Callable[[str], None]) -> None:
        self._rule = rule
        self._decode = decode_record
        self._say = say
        self.low = 0
        """Offset below which no record is needed, according to a commit that counts."""
        self._commits: list[Commit] = []
        self._released: dict[str, tuple[tuple[str, str], ...]] = {}  # effects of the commit of each message
        self._allowed: set[tuple[str, str]] = set()
        self._seen: set[tuple[str, str]] = set()
        self._tells: dict[str, dict[str, dict[int, str]]] = {}  # by queue, name and number

    # ---- observing

    def published(self, queue: str, body: bytes, offset: int) -> None:
        if queue == JOURNAL:
            self._appended(offset, body)
        elif queue not in (INBOX, NOWHERE):
            self._effect(queue, body)

    def _appended(self, offset: int, body: bytes) -> None:
        record = self._decode(body)
        if record is None or not self._rule.counts(record):
            return
        assert isinstance(record, Commit)
        self._say(f"  commit {record.epoch}/{record.seq} counts, at {offset}")
        self._commits.append(record)
        self.low = max(self.low, record.low)
        released = tuple((entry.queue, one) for entry in record.outbox for one in _parcels(entry.body))
        self._allowed.update(released)
        for message in record.methods:
            self._released[message] = released

    def _effect(self, queue: str, body: bytes) -> None:
        for envelope in _parcels(body):
            if (queue, envelope) not in self._allowed:
                raise Broken(f"{queue} was sent a message that no commit has released: {envelope}")
            self._seen.add((queue, envelope))
        if queue.startswith("replies."):
            return
        for known, payload in decode(body, _content_type(body)):
            numbers = self._tells.setdefault(queue, {}).setdefault(known.sender, {})
            text = payload.decode()[1:-1]
            if numbers.setdefault(known.seq, text) != text:
                raise Broken(
                    f"{queue} was sent '{numbers[known.seq]}' and '{text}', both as {known.sender} {known.seq}"
                )

    def acknowledged(self, message: Message) -> None:
        for known, _ in decode(message.body, properties(message.header).content_type):
            if known.id not in self._released:
                raise Broken(f"{known.id} was acknowledged before its commit counts")
            for effect in self._released[known.id]:
                if effect not in self._seen:
                    raise Broken(f"{known.id} was acknowledged before an effect of its commit was sent: {effect}")

    # ---- the final check

    def judge(self, server: Server, clients: Iterable[Client], skipped: Iterable[str]) -> None:
        """Check the whole history, once nothing happens any more."""
        order = [message for commit in self._commits for message in commit.methods]
        messages = {sent.id: sent for client in clients for sent in client.sent}
        self._check_once(order, messages)
        state, tells, replies = _replay(order, {id: sent.amount for id, sent in messages.items()})
        found = bank.fold([state for commit in self._commits for state in commit.states])
        if found != state:
            raise Broken(f"the state is {found}, and the applied messages give {state}")
        self._check_tells(tells)
        for sent in messages.values():
            if not sent.stored:
                raise Broken(f"{sent.id} was never confirmed")
            if sent.is_call and set(sent.replies) != {replies[sent.id]}:
                raise Broken(f"{sent.id} got the replies {sent.replies}, and the right one is '{replies[sent.id]}'")
        if server.queue(INBOX).size:
            raise Broken(f"{len(server.queue(INBOX))} messages wait in the inbox, or more are not acknowledged")
        self._check_order(order, set(skipped))

    def _check_once(self, order: list[str], messages: Iterable[str]) -> None:
        times = Counter(order)
        for message in messages:
            if times[message] != 1:
                raise Broken(f"{message} was applied {times[message]} times")

    def _check_tells(self, expected: dict[str, list[str]]) -> None:
        for queue in sorted({*expected, *self._tells}):
            texts: list[str] = []
            for name, numbers in self._tells.get(queue, {}).items():
                if sorted(numbers) != list(range(1, len(numbers) + 1)):
                    raise Broken(f"{queue} lacks a number of {name}: it was sent {sorted(numbers)}")
                texts += [numbers[seq] for seq in sorted(numbers)]
            if texts != expected.get(queue, []):
                raise Broken(f"{queue} was sent {texts}, and the applied messages give {expected.get(queue, [])}")

    def _check_order(self, order: list[str], skipped: set[str]) -> None:
        last: dict[str, int] = {}
        for message in order:
            sender, _, number = message.partition(":")
            if sender not in skipped and int(number) != last.get(sender, 0) + 1:
                raise Broken(f"{message} was applied after number {last.get(sender, 0)}")
            last[sender] = int(number)


def _replay(order: list[str], amounts: dict[str, int]) -> tuple[bank.Account, dict[str, list[str]], dict[str, str]]:
    state = bank.opened()
    tells: dict[str, list[str]] = {}
    replies: dict[str, str] = {}
    for message in order:
        try:
            done = bank.move(state, message, amounts[message])
        except bank.Overdrawn as exc:
            replies[message] = f'failure "{message}: {exc}"'
            continue
        state = done.state
        replies[message] = f'reply "{done.reply}"'
        for queue, text in done.tells:
            tells.setdefault(queue, []).append(text)
    return state, tells, replies


def _content_type(body: bytes) -> str:
    return "application/json" if body[:1] == b"{" else BATCH


@lru_cache(maxsize=4096)
def _parcels(body: bytes) -> list[str]:
    """A text for each envelope, which does not depend on the others in its message."""
    return [
        f"{known.kind} {known.call or f'{known.sender}/{known.seq}'} {payload.decode()}"
        for known, payload in decode(body, _content_type(body))
    ]
