"""A whole trace through the cache of a real store, request by request: what the compiled replay is held to."""

from __future__ import annotations

import numpy as np

from kvsim.caches.prefix import PrefixCache, Replayed, make_eviction
from kvsim.caches.prefix.future import next_uses
from kvsim.caches.prefix.replay import chains
from kvsim.types import IntArray


def replay_plain(
    blocks: IntArray,
    starts: IntArray,
    *,
    policy: str,
    budget_blocks: int | None,
    admission: str = "all",
    in_flight: int = 1,
    most_hits: IntArray | None = None,
) -> Replayed:
    """Return what `kvsim.caches.prefix.replay` does, by the plain cache."""
    num_distinct = int(blocks.max(initial=-1)) + 1
    budget = num_distinct if budget_blocks is None else min(budget_blocks, num_distinct)
    cache = PrefixCache(max(budget, 1), make_eviction(policy, max(budget, 1)), admission=admission, in_flight=in_flight)
    most = np.diff(starts) if most_hits is None else most_hits
    coming = next_uses(chains(blocks, starts), most.tolist())
    hits, evictions = [], []
    for chain, own, most_here in zip(chains(blocks, starts), coming, most.tolist(), strict=True):
        done = cache.request(chain, own, most_hits=most_here)
        hits.append(done.num_hits)
        evictions.append(len(done.evicted))
    return Replayed(hits=np.array(hits, dtype=np.int64), evictions=np.array(evictions, dtype=np.int64))
