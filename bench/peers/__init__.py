"""How fast the peers run tasks, on the RabbitMQ and in the run of our own figures. `make bench-peers` installs them."""
