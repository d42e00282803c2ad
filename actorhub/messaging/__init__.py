"""One session on the broker: numbered sending, replies, streams, delays, dead letters and recovery."""
