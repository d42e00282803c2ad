"""Simulation of durable mailboxes, by seed: the protocol of `actorhub.durable.protocol` on the embedded broker's state machine,
with random delays, crashes and pauses, and an oracle that sees everything from outside."""
