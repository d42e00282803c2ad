"""The peers' figures alone, on a private RabbitMQ (`python -m bench.peers`). `make bench` prints them beside ActorHub's."""

from __future__ import annotations

import argparse
import os
import sys

from actorhub.broker import open_server
from bench.peers.comparison import table
from bench.peers.runner import run_peers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers")
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each measurement")
    seconds = parser.parse_args().seconds
    server = open_server("rabbitmq")
    server.start()
    try:
        peers = run_peers(server.url, seconds)
    finally:
        server.stop()
    print(f"{os.cpu_count()} cores, RabbitMQ on this machine\n\n{table({}, peers)}")
    if any(peer.problem for peer in peers):
        sys.exit(1)


if __name__ == "__main__":
    main()
