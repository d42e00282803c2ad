"""What a durable mailbox has done, kept in a stream so that any worker can go on from there."""
