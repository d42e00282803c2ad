"""The simulated actor, a bank account: a pure function of its state and one message."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from actorhub.durable.protocol.records import StateRecord

DESTINATIONS = 2
Account = dict[str, Any]


class Overdrawn(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Done:
    state: Account
    tells: list[tuple[str, str]]
    """Pairs of a queue and a text."""

    reply: str


def opened() -> Account:
    return {"balance": 0, "moves": 0, "notes": {}}


def move(state: Account, message: str, amount: int) -> Done:
    """Change the balance by an amount.

    Raises:
        Overdrawn: the balance would be negative.
    """
    balance = state["balance"] + amount
    if balance < 0:
        raise Overdrawn(f"{state['balance']} of {-amount}")
    after = {**state, "balance": balance, "moves": state["moves"] + 1}
    if amount % 3 == 0:
        after["notes"] = {**state["notes"], message: balance}
    tells = [(destination(amount + n), f"{message}/{n}: {balance}") for n in range(amount % 4 % 3)]
    return Done(after, tells, f"{message}: {balance}")


def destination(number: int) -> str:
    return f"destination.{number % DESTINATIONS}"


def whole(state: Account) -> StateRecord:
    body = json.dumps(state).encode()
    return StateRecord(body=body, size=len(body))


def patch(before: Account, after: Account) -> StateRecord | None:
    changed = {name: value for name, value in after.items() if before[name] is not value}
    if not changed:
        return None
    body = json.dumps(changed).encode()
    return StateRecord(patch=True, body=body, size=len(body))


def fold(states: list[StateRecord]) -> Account:
    state = opened()
    for one in states:
        state = {**state, **json.loads(one.body)} if one.patch else json.loads(one.body)
    return state
