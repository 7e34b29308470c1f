"""Workload files with token ids, and their schedules step by step, without a clock, to compare with vLLM's own."""
