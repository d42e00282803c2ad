"""The directory of a cluster: what is where, and who decides it. `state` and `placement` are pure; `actor` does the I/O."""
