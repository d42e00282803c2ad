"""What clients asked of the bank, and what they were answered: the truth outside the cluster, a line of JSON each time."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.bank import Receipt


@dataclass
class Order:
    """`source` or `target` is empty where there is none. `receipts` are by account. One that has no end belongs to a client
    that was killed, or hangs."""

    id: str
    client: str
    kind: str
    source: str
    target: str
    amount: int
    end: str = ""
    receipts: dict[str, Receipt] = field(default_factory=dict)
    """`end`: "done", "refused", or what went wrong."""


class OrderBook:
    """The writing side. Each line is in the file when the method returns: a SIGKILL of the writer does not take it back."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, order: Order) -> None:
        fields = {"id": order.id, "client": order.client, "kind": order.kind}
        self._write({**fields, "source": order.source, "target": order.target, "amount": order.amount})

    def end(self, order: Order) -> None:
        self._write({"id": order.id, "end": order.end, "receipts": order.receipts})

    def _write(self, row: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read(paths: list[Path]) -> list[Order]:
    orders: dict[str, Order] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if "end" in row:
                orders[row["id"]].end = row["end"]
                orders[row["id"]].receipts = {name: (at, left) for name, (at, left) in row["receipts"].items()}
            else:
                orders[row["id"]] = Order(**row)
    return list(orders.values())
