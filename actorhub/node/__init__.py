"""The agent of one machine and the worker processes that it supervises."""
