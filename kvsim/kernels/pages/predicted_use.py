"""Compiled decisions of the policy `attention`; its twin `Attention` says what they mean."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit
from kvsim.kernels.pages.rank import least

Ints: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]


@njit
def learn(
    tables: Floats, is_unread: Mask, scores: Floats, selected: Ints, first: int, step: int, decay_frac: float
) -> int:
    """Take in the scores and the selection of a layer, and return how many unread pages are read.

    `tables` holds recent scores and predicted use, ``[2, num_page_ids]``; `first` is the layer's first page, `step` the
    ids from a sequence to the next.
    """
    recent, use = tables[0], tables[1]
    num_pages = scores.shape[1]
    place = 0
    for sequence in range(scores.shape[0]):
        begin = first + sequence * step
        while place < selected.size and selected[place] < begin:
            place += 1
        count = 0
        while place + count < selected.size and selected[place + count] < begin + num_pages:
            count += 1
        for index in range(num_pages):
            recent[begin + index] = recent[begin + index] * decay_frac + (1 - decay_frac) * scores[sequence, index]
        here = recent[begin : begin + num_pages]
        bar = np.partition(here, num_pages - count)[num_pages - count] if count else here.max()
        bar = max(bar, 1e-30)
        for index in range(num_pages):
            use[begin + index] = here[index] / bar
    used = 0
    for page in selected:
        use[page] += 1.0
        used += is_unread[page]
        is_unread[page] = False
    return used


@njit
def likely_pages(
    use: Floats, prefetchable: Mask, confidence: float, quota: int, first: int, step: int, sizes: tuple[int, int]
) -> Ints:
    """Return the layer's pages whose use passes `confidence`, the likeliest first; `sizes`: sequences, their pages."""
    best = np.empty(quota, dtype=np.int64)
    num_best = 0
    for sequence in range(sizes[0]):
        begin = first + sequence * step
        for page in range(begin, begin + sizes[1]):
            if not prefetchable[page] or not use[page] > confidence:
                continue
            if num_best == quota and not use[page] > use[best[num_best - 1]]:
                continue
            num_best = min(num_best + 1, quota)
            at = num_best - 1
            while at > 0 and use[page] > use[best[at - 1]]:
                best[at] = best[at - 1]
                at -= 1
            best[at] = page
    return best[:num_best]


@njit
def decide(
    tables: Floats,
    is_unread: Mask,
    scores: Floats,
    selected: Ints,
    evictable: Mask,
    prefetchable: Mask,
    settings: tuple[float, float, float, float],
    place: tuple[int, int, int],
    pools: tuple[int, int, int],
) -> tuple[Ints, Ints, float]:
    """Return victims, prefetches and the confidence after one decision.

    `settings` are confidence, its step, the wanted precision and the decay; `place` are layer, free slots and quota;
    `pools` are their number, pages a layer and the ids from a sequence to the next.
    """
    confidence, confidence_step, target_frac, decay_frac = settings
    layer, free_slots, quota = place
    num_pools, pages_per_layer, step = pools
    first = layer * pages_per_layer
    use = tables[1]
    used = learn(tables, is_unread, scores, selected, first, step, decay_frac)
    confidence = adapted(confidence, confidence_step, target_frac, used, 0)
    coming = np.empty(0, dtype=np.int64)
    if quota:
        coming = likely_pages(use, prefetchable, confidence, quota, first, step, scores.shape)
    count = max(0, coming.size - free_slots)
    victims = np.empty(0, dtype=np.int64)
    if count:
        pool = layer if num_pools > 1 else 0
        victims = least(use, pool, num_pools, pages_per_layer, count, evictable, np.empty(0, dtype=np.bool_))
    must_leave, num_free = max(0, -free_slots), max(0, free_slots)
    num_worth = 0
    while must_leave + num_worth < victims.size:
        if not use[coming[num_free + num_worth]] > use[victims[must_leave + num_worth]]:
            break
        num_worth += 1
    victims = victims[: must_leave + num_worth]
    prefetches = coming[: min(num_free, coming.size) + num_worth]
    wasted = 0
    for page in victims:
        wasted += is_unread[page]
        is_unread[page] = False
    for page in prefetches:
        is_unread[page] = True
    return victims, prefetches, adapted(confidence, confidence_step, target_frac, 0, wasted)


@njit
def adapted(confidence: float, step: float, target_frac: float, used: int, wasted: int) -> float:
    """Return the confidence after so many prefetched pages were read, and so many left unread."""
    change = wasted * target_frac - used * (1 - target_frac)
    return min(max(confidence + step * change, 0.05), 1.0)
