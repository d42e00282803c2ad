"""The `Hub` object: spawn, submit, inspect, explain and place."""
