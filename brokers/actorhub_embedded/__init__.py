"""Embedded broker: AMQP 0-9-1 as RabbitMQ speaks it, inside the process; for tests, scripts and laptops.

It keeps nothing on disk. Moving to RabbitMQ is a change of URL.
"""

from actorhub_embedded.local_server import EmbeddedServer

__all__ = ["EmbeddedServer"]
