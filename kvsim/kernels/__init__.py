"""Compiled kernels: numba functions over plain arrays, cached on disk (`kvsim.kernels.cached`).

A kernel takes arrays and numbers and knows no class of kvsim; tests hold what it computes to a plain twin.
"""
