"""The parts of the benchmark of serving; `bench/serving.py` is the command."""
