"""Durable actors: exactly-once mailboxes on a fenced journal, a stream from which any worker can go on."""
