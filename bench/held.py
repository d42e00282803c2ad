"""Memory of a million small messages in the embedded broker. `python -m bench.held` prints the megabytes."""

from __future__ import annotations

import psutil
from pamqp.commands import Basic, Channel, Queue

from actorhub_embedded.messages import encode
from actorhub_embedded.state import Broker

COUNT = 1_000_000


def main() -> float:
    broker = Broker(memory_limit=1 << 40)
    broker.connect(1)
    broker.receive(1, 1, Channel.Open(), 0.0)
    broker.receive(1, 1, Queue.Declare(0, "q", durable=True), 0.0)
    header = bytearray(encode(Basic.Properties(content_type="application/json", delivery_mode=2), 100))
    before = psutil.Process().memory_info().rss
    for number in range(COUNT):
        broker.publish(1, 1, Basic.Publish(0, "", "q"), bytes(header), b"%0100d" % number, 0.0)
    broker.flush(0.0)
    return (psutil.Process().memory_info().rss - before) / 1e6


if __name__ == "__main__":
    print(main())
