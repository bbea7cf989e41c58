"""What `make bench` runs. Every figure is a ratio against something measured in the same run on the same cores.

    python -m benchmarks rollout --blocks 3 --size 3M

`measure.py` is the arithmetic, `alternate.py` the order of measuring, `report.py` the table, JSON and plot, `peer.py` a
contender in a process of its own (`peers/`), and one module for each benchmark.
"""
