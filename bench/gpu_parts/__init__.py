"""The parts of the reference measurement of one GPU; `bench/gpu_reference.py` is the command."""
