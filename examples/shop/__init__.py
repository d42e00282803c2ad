"""A small project with its own tests: actors in `shop.py`, tests that use the fixtures of the pytest plugin."""
