"""Durable mailboxes, by seed: the protocol of `actorhub.journal` on the embedded broker's state machine, with chance for wires,
crashes and pauses, and an oracle that looks from outside."""
