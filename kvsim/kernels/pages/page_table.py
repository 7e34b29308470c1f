"""The page table's part of one decision, compiled; `kvsim.policies.residency.Residency` says what it means."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit

Ints: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

RESIDENT, EVICTABLE, PREFETCHABLE = 0, 1, 2
"""Rows of the flags, ``[3, num_page_ids]``."""

CARRIED_OUT, UNSOUND, NO_SLOT = 0, 1, 2
"""What became of a plan: done; left alone, because it breaks the protocol; done, and pages are without a slot."""


@njit
def select(flags: Mask, selected: Ints) -> tuple[Ints, Ints, Mask]:
    """Take what is selected out of what a policy may name; return hits, misses and which hits were evictable."""
    hits, misses = np.empty_like(selected), np.empty_like(selected)
    was_evictable = np.empty(selected.size, dtype=np.bool_)
    num_hits = num_misses = 0
    for page in selected:
        if flags[RESIDENT, page]:
            was_evictable[num_hits] = flags[EVICTABLE, page]
            hits[num_hits] = page
            num_hits += 1
        else:
            flags[PREFETCHABLE, page] = False
            misses[num_misses] = page
            num_misses += 1
        flags[EVICTABLE, page] = False
    return hits[:num_hits], misses[:num_misses], was_evictable[:num_hits]


@njit
def is_sound(flags: Mask, marks: Ints, victims: Ints, prefetches: Ints, most: int) -> bool:
    """Return whether a plan keeps to the protocol; `victims` ascend, `most` is the quota, `marks` are scratch space."""
    num_ids = flags.shape[1]
    for place in range(victims.size):
        page = victims[place]
        if page < 0 or page >= num_ids or not flags[EVICTABLE, page] or (place and page == victims[place - 1]):
            return False
    for place in range(prefetches.size):
        page = prefetches[place]
        if page < 0 or page >= num_ids or not flags[PREFETCHABLE, page]:
            return False
        marks[page] = place
    for place in range(prefetches.size):
        if marks[prefetches[place]] != place:
            return False
    return prefetches.size <= most


@njit
def carry_out(
    flags: Mask,
    free: Ints,
    marks: Ints,
    read: tuple[Ints, Ints, Mask],
    plan: tuple[Ints, Ints, int],
    may_return: Mask,
    sizes: tuple[int, int, int],
) -> int:
    """Enter a plan in the page table, and say what became of it.

    Parameters
    ----------
    free
        Free slots of the pool, or of each layer's, ``[num_pools]``.
    read
        What `select` returned.
    plan
        Victims, ascending, prefetches, and how many of them there may be.
    may_return
        Whether a page that leaves may be prefetched again; no pages: all may.
    sizes
        The layer, pages of a layer and layers.
    """
    hits, misses, was_evictable = read
    victims, prefetches, most = plan
    layer, pages_per_layer, num_layers = sizes
    if not is_sound(flags, marks, victims, prefetches, most):
        return UNSOUND
    shares = free.size == 1
    for page in victims:
        flags[RESIDENT, page] = flags[EVICTABLE, page] = False
        flags[PREFETCHABLE, page] = may_return[page] if may_return.size else True
        free[0 if shares else page // pages_per_layer % num_layers] += 1
    for page in misses:
        flags[RESIDENT, page] = flags[EVICTABLE, page] = True
    free[0 if shares else layer] -= misses.size
    for page in prefetches:
        flags[RESIDENT, page] = flags[EVICTABLE, page] = True
        flags[PREFETCHABLE, page] = False
        free[0 if shares else page // pages_per_layer % num_layers] -= 1
    for place in range(hits.size):
        flags[EVICTABLE, hits[place]] = was_evictable[place]
    for pool in range(free.size):
        if free[pool] < 0:
            return NO_SLOT
    return CARRIED_OUT
