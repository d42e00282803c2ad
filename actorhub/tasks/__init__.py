"""Tasks: declare, submit, route, retry and fan in."""
