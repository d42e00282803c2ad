"""The protocol of a durable mailbox: records, what counts of them, the owner's decisions, and the takeover. Pure."""
