"""A whole request trace through a prefix cache: a block index, compiled, or a radix tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvsim.caches.prefix.evictions import EVICTIONS
from kvsim.caches.prefix.radix import RadixCache
from kvsim.errors import PolicyError
from kvsim.kernels import prefix as kernel
from kvsim.scenario.toml import nearest
from kvsim.types import IntArray

_COMPILED = {
    "lru": kernel.LRU,
    "fifo": kernel.FIFO,
    "lfu": kernel.LFU,
    "belady": kernel.BELADY,
    "sieve": kernel.SIEVE,
    "s3-fifo": kernel.S3_FIFO,
    "arc": kernel.ARC,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a cache did for each request of a trace, ``[num_requests]`` each."""

    hits: IntArray
    """Blocks found, from the first on, and not computed again."""
    evictions: IntArray
    """Blocks that left to make room for the request's."""


def replay(
    blocks: IntArray,
    starts: IntArray,
    parents: IntArray,
    *,
    policy: str,
    budget_blocks: int | None,
    admission: str = "all",
    in_flight: int = 1,
    most_hits: IntArray | None = None,
) -> Replayed:
    """Return what a prefix cache does with a trace, by the compiled twin of `PrefixCache`.

    Parameters
    ----------
    blocks, starts, parents
        As `kvsim.traces.requests.base.RequestBlocks` has them.
    most_hits
        Blocks that each request may hit, as its ``most_hits``; all where absent.

    Raises
    ------
    PolicyError
        If there is no such policy.
    """
    if policy not in _COMPILED:
        raise PolicyError(f"no eviction policy of prefix blocks is called {policy!r}{nearest(policy, EVICTIONS)}")
    hits, evictions = kernel.replay_prefix(
        _COMPILED[policy],
        blocks,
        starts,
        parents,
        np.diff(starts) if most_hits is None else most_hits,
        parents.size if budget_blocks is None else min(budget_blocks, parents.size),
        admission == "second-touch",
        in_flight,
    )
    return Replayed(hits=hits, evictions=evictions)


def replay_radix(
    blocks: IntArray,
    starts: IntArray,
    *,
    policy: str,
    budget_blocks: int | None,
    evicts: str = "node",
    most_hits: IntArray | None = None,
) -> Replayed:
    """Return what a radix tree does with a trace, one request at a time; see `RadixCache`."""
    cache = RadixCache(budget_blocks, policy, evicts=evicts)
    matches, evictions = [], []
    for chain in chains(blocks, starts):
        matched, left = cache.request(tuple(chain))
        matches.append(matched)
        evictions.append(left)
    hits = np.array(matches, dtype=np.int64)
    if most_hits is not None:
        hits = np.minimum(hits, most_hits)
    return Replayed(hits=hits, evictions=np.array(evictions, dtype=np.int64))


def chains(blocks: IntArray, starts: IntArray) -> list[Sequence[int]]:
    """Return the blocks of each request."""
    ids = blocks.tolist()
    return [ids[start:stop] for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]
