"""vLLM 0.32's scheduler and block pool, compiled: one call schedules a step and one takes in what it sampled.

The plain twins are `kvsim.policies.schedulers` and `kvsim.caches.blocks`; tests hold every step of both to each other.
All state is in arrays behind one number (`kvsim.kernels.arrays`), `core`; `layout` names the arrays and their columns.
"""
