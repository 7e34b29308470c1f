"""Blocks of a paged KV cache as vLLM 0.32 keeps them: which are free, which are cached, and which a request holds.

State and accounting without a clock. `BlockPool` owns the blocks, `BlockTables` the lists of blocks of each request,
`ChainKeys` gives equal runs of tokens equal keys. Every class has a ``_check``, linear in its size, which asserts its
invariants: tests call it after each operation. Sources: ``vllm/v1/core/block_pool.py``, ``kv_cache_utils.py``,
``kv_cache_manager.py`` and ``single_type_kv_cache_manager.py`` of vLLM 0.32.0.
"""

from kvsim.caches.blocks.chains import ChainKeys, ChainTable
from kvsim.caches.blocks.free_queue import FreeQueue
from kvsim.caches.blocks.index import PrefixIndex
from kvsim.caches.blocks.pool import BlockPool
from kvsim.caches.blocks.tables import BlockTables, Chains

__all__ = ["BlockPool", "BlockTables", "ChainKeys", "ChainTable", "Chains", "FreeQueue", "PrefixIndex"]
