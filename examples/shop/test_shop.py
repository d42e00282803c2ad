"""Tests of actors: as plain classes, in a cluster inside the process, and through a crash of real processes."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from actorhub import Hub, InvalidArguments
from examples.shop.shop import Cart, Line, OutOfStock, Stock


async def test_the_class_is_a_plain_class() -> None:
    stock = Stock({"tea": 2})
    await stock.reserve(Line(sku="tea", count=2))
    assert await stock.left("tea") == 0


async def test_carts_share_a_stock(hub: Hub) -> None:
    stock = await hub.spawn(Stock, {"tea": 10})
    carts = [await hub.spawn(Cart, stock) for _ in range(3)]
    await asyncio.gather(*(cart.add(Line(sku="tea", count=3)) for cart in carts))
    with pytest.raises(OutOfStock, match="tea"):
        await carts[0].add(Line(sku="tea", count=2))
    assert await stock.left("tea") == 1


async def test_nonsense_never_reaches_the_stock(hub: Hub) -> None:
    stock = await hub.spawn(Stock, {"tea": 1})
    with pytest.raises(InvalidArguments, match="count"):
        await stock.reserve({"sku": "tea", "count": -1})  # type: ignore[arg-type]


async def test_a_cart_outlives_the_process_that_holds_it(local_hub: Hub) -> None:
    stock = await local_hub.spawn(Stock, {"tea": 100})
    cart = await local_hub.spawn(Cart, stock)
    await cart.add(Line(sku="tea", count=1))
    for node in await local_hub.nodes():
        for worker in node.workers:
            if any(actor.startswith("cart") for actor in worker.actors):
                os.kill(worker.pid, signal.SIGKILL)
    assert await cart.add(Line(sku="tea", count=1)) >= 1, "a plain actor loses its state in a crash, but no call"
