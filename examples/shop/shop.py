"""A shop: carts that reserve from one stock, and a stock that never sells what it does not have."""

from __future__ import annotations

from pydantic import BaseModel, Field

from actorhub import actor


class Line(BaseModel):
    sku: str
    count: int = Field(gt=0)


class OutOfStock(Exception):
    """`sku` is not there in that number."""

    def __init__(self, sku: str) -> None:
        super().__init__(sku)
        self.sku = sku


@actor
class Stock:
    def __init__(self, items: dict[str, int]) -> None:
        self.items = items

    async def reserve(self, line: Line) -> None:
        if self.items.get(line.sku, 0) < line.count:
            raise OutOfStock(line.sku)
        self.items[line.sku] -= line.count

    async def left(self, sku: str) -> int:
        return self.items.get(sku, 0)


@actor
class Cart:
    def __init__(self, stock: Stock) -> None:
        self.stock = stock
        self.lines: list[Line] = []

    async def add(self, line: Line) -> int:
        """Reserves it; returns how many pieces are in the cart."""
        await self.stock.reserve(line)
        self.lines.append(line)
        return sum(line.count for line in self.lines)
