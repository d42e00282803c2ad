"""The baseline: an echo on bare pika, with one persistent message each way, no framework and no confirms.

`python -m bench.bare_echo URL QUEUE` is the server; `measure` is the client.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Any

import pika
import uvloop
from pika.adapters.asyncio_connection import AsyncioConnection

PAYLOAD = b"x" * 80
Channel = Any


async def _open(url: str) -> Channel:
    opened: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

    def on_open(connection: Any) -> None:
        connection.channel(on_open_callback=opened.set_result)

    def on_error(connection: Any, error: BaseException) -> None:
        opened.set_exception(error)

    AsyncioConnection(pika.URLParameters(url), on_open, on_error, custom_ioloop=asyncio.get_running_loop())
    channel = await opened
    channel.basic_qos(prefetch_count=1000)
    return channel


async def _declare(channel: Channel, queue: str) -> None:
    declared: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    channel.queue_declare(queue, durable=True, arguments={"x-expires": 600_000}, callback=declared.set_result)
    await declared


async def _serve(url: str, queue: str) -> None:
    channel = await _open(url)
    await _declare(channel, queue)

    def echo(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        answer = pika.BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, body, answer)
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(queue, echo)
    await asyncio.Event().wait()


async def measure(url: str, outstanding: int, seconds: float, times: list[float] | None = None) -> float:
    """Return echoes per second with `outstanding` echoes on their way at any moment.

    With one outstanding, `times` gets the seconds of each echo.
    """
    queue = f"bare-echo-{time.time_ns()}"
    channel = await _open(url)
    await _declare(channel, queue)
    await _declare(channel, f"{queue}-reply")
    server = subprocess.Popen([sys.executable, "-m", "bench.bare_echo", url, queue])  # noqa: ASYNC220
    done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    properties = pika.BasicProperties(reply_to=f"{queue}-reply", correlation_id="1", delivery_mode=2)
    count, began, sent = 0, 0.0, 0.0

    def send() -> None:
        nonlocal sent
        sent = time.perf_counter()
        channel.basic_publish("", queue, PAYLOAD, properties)

    def on_reply(channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        nonlocal count, began
        channel.basic_ack(method.delivery_tag)
        now = time.perf_counter()
        if not began:  # the first reply: the server is ready
            began = now
            for _ in range(outstanding):
                send()
            return
        count += 1
        if times is not None:
            times.append(now - sent)
        if now - began < seconds:
            send()
        elif not done.done():
            done.set_result(count / (now - began))

    channel.basic_consume(f"{queue}-reply", on_reply)
    send()
    try:
        return await done
    finally:
        server.terminate()
        server.wait()
        channel.connection.close()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], sys.argv[2]))
