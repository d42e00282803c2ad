"""A small project with its own tests: actors in `shop.py`, and tests by the fixtures of the pytest plugin."""
