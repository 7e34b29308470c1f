"""The parts of the comparison of prefetchers; `bench/predictors.py` is the command."""
