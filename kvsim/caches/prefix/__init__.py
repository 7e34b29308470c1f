"""Prefix caching: blocks of prompts kept for the next prompt that begins alike, and which of them leave.

A block is a full run of tokens, known by a hash of itself and all before it (`hash_blocks`). `PrefixCache` is the
cache as vLLM has it, asked request by request, `RadixCache` the same as a radix tree, as SGLang has it; `replay` runs
the compiled form of the first over a whole trace, `replay_radix` the second.
"""

from kvsim.caches.prefix.cache import Admitted, PrefixCache
from kvsim.caches.prefix.evictions import EVICTIONS, make_eviction
from kvsim.caches.prefix.radix import RadixCache
from kvsim.caches.prefix.replay import Replayed, replay, replay_radix
from kvsim.traces.requests.hashing import hash_blocks

__all__ = [
    "EVICTIONS",
    "Admitted",
    "PrefixCache",
    "RadixCache",
    "Replayed",
    "hash_blocks",
    "make_eviction",
    "replay",
    "replay_radix",
]
