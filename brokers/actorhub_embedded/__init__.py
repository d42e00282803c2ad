"""A broker inside the process, which speaks AMQP 0-9-1 as RabbitMQ does: for tests, scripts and laptops.

It keeps nothing on disk. Moving to RabbitMQ is a change of URL.
"""

from actorhub_embedded.embedded import EmbeddedServer

__all__ = ["EmbeddedServer"]
