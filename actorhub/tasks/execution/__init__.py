"""Execution of tasks in a slot: take, run, complete."""
