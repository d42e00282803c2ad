"""A bank of durable accounts whose processes and whose broker are killed, stopped and cut off, by seed; and what must hold all
the same. `python -m tests.chaos --help`; `tests/chaos/test_chaos.py` runs a minute of it."""
