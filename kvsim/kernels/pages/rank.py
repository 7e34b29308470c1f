"""Compiled evictors by rank: the pages of the least keys leave, ties to the smallest id; and what makes their keys."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit

Ints: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Hashes: TypeAlias = NDArray[np.uint64]
Keys: TypeAlias = NDArray[Any]


@njit
def _sink(keys: Keys, heap: Ints, size: int, at: int) -> None:
    """Restore the heap below `at`: on top the greatest key, of equal ones the greatest id."""
    page = heap[at]
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and _is_behind(keys, heap[below + 1], heap[below]):
            below += 1
        if not _is_behind(keys, heap[below], page):
            break
        heap[at] = heap[below]
        at = below
    heap[at] = page


@njit
def _is_behind(keys: Keys, page: int, other: int) -> bool:
    return keys[page] > keys[other] or (keys[page] == keys[other] and page > other)


@njit
def least(
    keys: Keys, pool: int, num_pools: int, pages_per_layer: int, count: int, evictable: Mask, spared: Mask
) -> Ints:
    """Return up to `count` pages of a pool that may leave, those of the least keys, the least first.

    `keys` are ``[num_page_ids]``; pools are layers, or one for all: a heap of `count` pages, O(pages of the pool).
    """
    heap = np.empty(count, dtype=np.int64)
    size = 0
    span = keys.size if num_pools == 1 else pages_per_layer
    first = pool * pages_per_layer
    while first < keys.size:
        for page in range(first, first + span):
            if not evictable[page] or (spared.size and spared[page]):
                continue
            if size < count:
                heap[size] = page
                size += 1
                if size == count:
                    for at in range(count // 2 - 1, -1, -1):
                        _sink(keys, heap, size, at)
            elif keys[page] < keys[heap[0]]:
                heap[0] = page
                _sink(keys, heap, size, 0)
        first += num_pools * pages_per_layer if num_pools > 1 else span
    if size < count:
        for at in range(size // 2 - 1, -1, -1):
            _sink(keys, heap, size, at)
    for end in range(size - 1, 0, -1):
        heap[0], heap[end] = heap[end], heap[0]
        _sink(keys, heap, end, 0)
    return heap[:size]


@njit
def lfu_touch(readings: Ints, selected: Ints, misses: Ints) -> None:
    """LFU: count readings; those of misses begin with this one."""
    for page in misses:
        readings[page] = 0
    for page in selected:
        readings[page] += 1


@njit
def rank_layer(keys: Keys, scores: Floats, first: int, step: int) -> None:
    """Give the pages of a layer their importance: 0 for the best, the worse the less; `step` leads a sequence on."""
    for sequence in range(scores.shape[0]):
        worst_first = np.argsort(scores[sequence], kind="mergesort")
        for place in range(worst_first.size):
            keys[first + worst_first[place]] = place + 1 - worst_first.size
        first += step


@njit
def recency_touch(
    sums: Floats,
    scores: Floats,
    decay_frac: float,
    first: int,
    step: int,
    pages_per_layer: int,
    selected: Ints,
    misses: Ints,
) -> None:
    """Scored recency: let the layer's sums decay, and add the scores of what is read."""
    begin = first
    for _ in range(scores.shape[0]):
        for page in range(begin, begin + pages_per_layer):
            sums[page] *= decay_frac
        begin += step
    for page in misses:
        sums[page] = 0.0
    for page in selected:
        sums[page] += scores[page // step, page % pages_per_layer]


@njit
def mix(value: np.uint64) -> np.uint64:
    """Return the hash of `kvsim.policies.evictors.random_pages.mix`."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit
def draw_lots(
    lots: Hashes, seed: np.uint64, draw: int, pool: int, num_pools: int, pages_per_layer: int, evictable: Mask
) -> None:
    """Random: give every page of a pool that may leave its lot in one draw; `seed` modulo 2**64."""
    common = mix(np.uint64(seed) + mix(np.uint64(draw)))
    for page in range(lots.size):
        if evictable[page] and (num_pools == 1 or (page // pages_per_layer) % num_pools == pool):
            lots[page] = mix(common ^ np.uint64(page))
