"""Example programs, to read and to run: `python -m examples.counter`."""
