"""The experiment ``serving``: many requests on one engine.

`workload` reads and writes workload files, `schedule` replays one step by step, without a clock.
"""
