"""The bank of `tests/chaos`, for a minute on each kind of broker; and that its audit finds what is wrong."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from actorhub_rabbitmq import PrivateNode
from tests.chaos.audit import differences
from tests.chaos.bank import Entry
from tests.chaos.broker import Container, Private
from tests.chaos.order import Order, OrderBook, read
from tests.chaos.trial import Plan, Trial

SEED = 20261
IMAGE = "rabbitmq:4-management"


@pytest.mark.timeout(400)
async def test_each_order_is_done_once_though_workers_agents_clients_and_the_broker_are_killed(
    own_rabbitmq: PrivateNode, tmp_path: Path
) -> None:
    """Invariant: no money is made or lost; each order is done on both sides, once, in the order of asking, or on none; each
    answer is what the history says; no call waits for ever, and nothing is left in inboxes or among the dead letters."""
    await Trial(Plan(seconds=60, seed=SEED, agents=2), Private(own_rabbitmq), tmp_path).run()


@pytest.fixture
def rabbitmq4() -> Iterator[Container]:
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no Docker engine answers; start one, or set DOCKER_HOST")
    container = Container(IMAGE)
    yield container
    container.remove()


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_each_order_is_done_once_on_rabbitmq_4(rabbitmq4: Container, tmp_path: Path) -> None:
    """Invariant: as above."""
    await Trial(Plan(seconds=90, seed=SEED), rabbitmq4, tmp_path).run()


# ---- the audit

ONE: list[Entry] = [["a-1", 50], ["a-2", -20]]
TWO: list[Entry] = [["a-2", 20]]
ORDERS = [
    Order("a-1", "a", "deposit", "", "one", 50, "done", {"one": (1, 1050)}),
    Order("a-2", "a", "transfer", "one", "two", 20, "done", {"one": (2, 1030)}),
    Order("a-3", "a", "transfer", "one", "two", 9000, "refused"),
]


def _accounts(one: list[Entry] = ONE, two: list[Entry] = TWO) -> dict[str, tuple[int, list[Entry]]]:
    histories = {"one": one, "two": two}
    return {name: (1000 + sum(int(amount) for _, amount in entries), entries) for name, entries in histories.items()}


def test_an_audit_of_books_that_agree_finds_nothing() -> None:
    assert differences(_accounts(), ORDERS) == []


def _found(accounts: dict[str, tuple[int, list[Entry]]], *more: Order, dead: str = "") -> str:
    return "\n".join(differences(accounts, [*ORDERS, *more], frozenset({dead})))


@pytest.mark.parametrize(
    ("accounts", "words"),
    [
        (_accounts(two=[]), "a-2 of 20 at one and two was answered; applied are [-20, None]"),
        (_accounts(two=[*TWO, *TWO]), "two has applied a-2 2 times"),
        (_accounts(one=[*ONE, ["a-9", 1]]), "one has applied a-9, which nobody asked for"),
        (_accounts(one=[*ONE, ["a-3", -9000]]), "a-3 of 9000 at one and two was refused; applied are [-9000, None]"),
        (_accounts(one=ONE[::-1]), "a-1 was answered (1, 1050) by one, whose history has ('a-2', (1, 980)) there"),
        (_accounts(one=ONE[::-1]), "one has done a-2 of a where a-1 was asked first"),
        (_accounts(one=[["a-1", 50], ["a-2", -21]]), "all accounts together have 2049, and 2050 were paid in"),
        ({**_accounts(), "two": (1021, TWO)}, "two has 1021, and its history makes 1020"),
    ],
)
def test_an_audit_finds_what_is_lost_doubled_invented_or_out_of_order(
    accounts: dict[str, tuple[int, list[Entry]]], words: str
) -> None:
    assert words in _found(accounts)


def test_an_audit_finds_calls_without_an_answer_and_those_that_failed() -> None:
    waits = Order("a-4", "a", "transfer", "one", "two", 5)
    assert "a-4 of 5 at one and two has no answer" in _found(_accounts(), waits)
    assert not _found(_accounts(), waits, dead="a")
    half = _accounts(one=[*ONE, ["a-4", -5]])
    assert "a-4 of 5 at one and two of a killed client is done by half" in _found(half, waits, dead="a")
    failed = Order("a-4", "a", "deposit", "", "two", 5, "ActorDied()")
    assert "a-4 of 5 at two failed: ActorDied()" in _found(_accounts(), failed)


def test_a_book_of_orders_says_what_was_asked_and_answered(tmp_path: Path) -> None:
    books = [tmp_path / "one", tmp_path / "two"]
    for number, order in enumerate(ORDERS):
        writer = OrderBook(books[number % 2])
        writer.begin(order)
        writer.end(order)
    assert sorted(read(books), key=lambda order: order.id) == ORDERS
