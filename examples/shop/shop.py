"""A shop: carts reserve items from one stock, and the stock never sells more than it has."""

from __future__ import annotations

from pydantic import BaseModel, Field

from actorhub import actor


class Line(BaseModel):
    sku: str
    count: int = Field(gt=0)


class OutOfStock(Exception):
    """The stock has too few pieces of `sku`."""

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
        """Reserve the line; return the number of pieces in the cart."""
        await self.stock.reserve(line)
        self.lines.append(line)
        return sum(line.count for line in self.lines)
