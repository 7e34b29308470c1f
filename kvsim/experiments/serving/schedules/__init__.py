"""Workload files with token ids, and their schedules step by step, without a clock: what vLLM's own are compared with."""
