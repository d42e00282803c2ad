"""A bank of durable actors (`account.py`): accounts transfer money while worker processes are killed.

    python -m examples.bank                     two workers on this machine, with an in-memory broker
    python -m examples.bank --broker rabbitmq   the same with a private RabbitMQ

A transfer is a message to one account, which tells the other account. Both halves are recorded in journals at the
broker, so a worker that is killed in between neither creates nor loses money. At the end the program adds up all
accounts, and fails if the total has changed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal

from actorhub import Hub, ask
from actorhub.cluster import BrokerChoice
from examples.account import Account, InsufficientFunds

ACCOUNTS, TRANSFERS, KILLS = 8, 2000, 4
INITIAL_BALANCE = 1000


async def trade(accounts: list[Account], chance: random.Random, share: int) -> int:
    """Make `share` transfers between random accounts, one after the other; return how many succeeded."""
    done = 0
    for _ in range(share):
        source, target = chance.sample(accounts, 2)
        try:
            await source.transfer(target, chance.randrange(1, 400))
            done += 1
        except InsufficientFunds:
            pass  # no money has moved
    return done


async def kill_workers(accounts: list[Account], chance: random.Random) -> None:
    for _ in range(KILLS):
        await asyncio.sleep(0.4)
        pid = await ask(chance.choice(accounts).pid)
        os.kill(pid, signal.SIGKILL)
        print(f"killed worker process {pid}", flush=True)


async def all_received(accounts: list[Account], count: int) -> list[int]:
    """Return the balances when all `count` transfers have been received."""
    while True:
        states = await asyncio.gather(*(account.read() for account in accounts))
        if sum(received for _, received in states) >= count:
            return [balance for balance, _ in states]
        await asyncio.sleep(0.05)


async def main(broker: BrokerChoice) -> None:
    chance = random.Random(0)
    async with Hub.local(workers=2, broker=broker, modules=["examples.account"]) as hub:
        accounts = [await hub.spawn(Account, f"account {number}", INITIAL_BALANCE) for number in range(ACCOUNTS)]
        killing = asyncio.create_task(kill_workers(accounts, chance))
        traders = ACCOUNTS * 2
        done = sum(await asyncio.gather(*(trade(accounts, chance, TRANSFERS // traders) for _ in range(traders))))
        await killing
        balances = await all_received(accounts, done)
        owners = [entry for entry in await hub.history(accounts[0], limit=10_000) if entry.kind == "epoch"]
    print(f"{done} transfers; account 0 had {len(owners)} owners, one after the other")
    print(f"balances: {', '.join(map(str, balances))}")
    if sum(balances) != ACCOUNTS * INITIAL_BALANCE:
        raise SystemExit(f"the total is NOT right: {sum(balances)} instead of {ACCOUNTS * INITIAL_BALANCE}")
    print(f"the total is right: {sum(balances)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.bank")
    parser.add_argument("--broker", choices=["embedded", "rabbitmq"], default="embedded")
    asyncio.run(main(parser.parse_args().broker))
