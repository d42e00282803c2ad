"""Benchmarks: ratios against baselines of the same run. `make bench` prints the tables of docs/performance.md."""
