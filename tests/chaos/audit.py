"""Whether the bank's accounts and its clients' orders say the same. Pure; everything is quiet meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tests.chaos.bank import OPENING, Entry, Receipt
from tests.chaos.order import Order

Accounts = Mapping[str, tuple[int, list[Entry]]]
"""Balance and history, by name."""


def differences(accounts: Accounts, orders: Sequence[Order], dead: frozenset[str] = frozenset()) -> list[str]:
    """What does not hold, in words. `dead` are clients that were killed: what they were not answered may have been done, but on
    both sides or on none."""
    return [
        *_of_accounts(accounts, {order.id for order in orders}),
        *_of_orders(accounts, orders, dead),
        *_of_the_total(accounts, orders),
        *_of_the_sequence(accounts, orders),
    ]


def _of_accounts(accounts: Accounts, known: set[str]) -> Iterator[str]:
    for name, (balance, history) in accounts.items():
        expected = OPENING + sum(int(amount) for _, amount in history)
        if balance != expected:
            yield f"{name} has {balance}, and its history makes {expected}"
        for order, times in Counter(str(id) for id, _ in history).items():
            if times > 1:
                yield f"{name} has applied {order} {times} times"
            if order not in known:
                yield f"{name} has applied {order}, which nobody asked for"


def _of_orders(accounts: Accounts, orders: Sequence[Order], dead: frozenset[str]) -> Iterator[str]:
    applied = {(name, str(id)): int(amount) for name, (_, history) in accounts.items() for id, amount in history}
    for order in orders:
        sides = [(order.source, -order.amount), (order.target, order.amount)]
        sides = [(name, amount) for name, amount in sides if name]
        found = [applied.get((name, order.id)) for name, _ in sides]
        meant = [amount for _, amount in sides]
        where = " and ".join(name for name, _ in sides)
        what = f"{order.kind} {order.id} of {order.amount} at {where}"
        match order.end:
            case "done":
                if found != meant:
                    yield f"{what} was answered; applied are {found}"
                yield from _of_receipts(accounts, order)
            case "refused":
                if any(amount is not None for amount in found):
                    yield f"{what} was refused; applied are {found}"
            case "" if order.client in dead:
                if found != meant and any(amount is not None for amount in found):
                    yield f"{what} of a killed client is done by half; applied are {found}"
            case "":
                yield f"{what} has no answer; applied are {found}"
            case failure:
                yield f"{what} failed: {failure}; applied are {found}"


def _of_receipts(accounts: Accounts, order: Order) -> Iterator[str]:
    for name, receipt in order.receipts.items():
        found = _receipt(accounts[name][1], receipt[0])
        if found != (order.id, receipt):
            yield f"{order.id} was answered {receipt} by {name}, whose history has {found} there"


def _receipt(history: list[Entry], place: int) -> tuple[str, Receipt] | None:
    if not 0 < place <= len(history):
        return None
    return str(history[place - 1][0]), (place, OPENING + sum(int(amount) for _, amount in history[:place]))


def _of_the_total(accounts: Accounts, orders: Sequence[Order]) -> Iterator[str]:
    applied = {str(id) for _, history in accounts.values() for id, _ in history}
    paid_in = sum(order.amount for order in orders if not order.source and order.id in applied)
    expected = OPENING * len(accounts) + paid_in
    total = sum(balance for balance, _ in accounts.values())
    if total != expected:
        yield f"all accounts together have {total}, and {expected} were paid in"


def _of_the_sequence(accounts: Accounts, orders: Sequence[Order]) -> Iterator[str]:
    """What one client asks of one account itself is done in the order of asking."""
    asked: dict[tuple[str, str], list[str]] = {}
    for order in orders:
        if order.kind != "move":
            asked.setdefault((order.client, order.source or order.target), []).append(order.id)
    for (client, name), ids in asked.items():
        mine = set(ids)
        done = [str(id) for id, _ in accounts[name][1] if id in mine]
        known = set(done)
        expected = [id for id in ids if id in known]
        if done != expected and len(done) == len(known):
            at = next(n for n, (one, other) in enumerate(zip(done, expected, strict=True)) if one != other)
            yield f"{name} has done {done[at]} of {client} where {expected[at]} was asked first"
