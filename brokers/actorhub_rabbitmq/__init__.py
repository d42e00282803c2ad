"""RabbitMQ adapter: data on pika, administration on aio-pika, and a private node for tests and local clusters."""

from actorhub_rabbitmq.private_node import PrivateNode
from actorhub_rabbitmq.rabbitmq import RabbitMQ

__all__ = ["PrivateNode", "RabbitMQ"]
