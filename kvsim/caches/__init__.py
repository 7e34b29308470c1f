"""A keyed store with a budget and an eviction policy, request by request.

The shared ground of what caches rows, blocks and prompts: `Cache` says access by access who is in which slot, `replay`
counts a whole trace, `miss_curve` gives LRU's misses at every budget. `CACHE_POLICIES` names the policies.
"""

from __future__ import annotations

from kvsim.caches.cache import Accesses, Cache
from kvsim.caches.curve import MissCurve, miss_curve
from kvsim.caches.registry import CACHE_POLICIES, CachePolicy, find_cache_policy
from kvsim.caches.replay import ReplayResult, replay

__all__ = [
    "CACHE_POLICIES",
    "Accesses",
    "Cache",
    "CachePolicy",
    "MissCurve",
    "ReplayResult",
    "find_cache_policy",
    "miss_curve",
    "replay",
]
