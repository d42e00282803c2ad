"""Declare, address, call and run one actor."""
