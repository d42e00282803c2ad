"""Measurements, as ratios against baselines of the same run. `make bench` prints the table of docs/performance.md."""
