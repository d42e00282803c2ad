"""Bytes on the wire: envelopes, pickles, signatures and failures.

Imports no other package of ActorHub but `errors`.
"""
