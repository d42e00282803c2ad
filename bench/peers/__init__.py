"""Benchmarks of Ray, Celery and Dramatiq, in the same run and on the same RabbitMQ. `make bench-peers` installs them."""
