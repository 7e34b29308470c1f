"""Compiled decisions of the policy `predictive`; its twin `Predictive` says what they mean."""

from __future__ import annotations

from math import exp, log
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit
from kvsim.kernels.pages.predicted_use import adapted, learn, likely_pages
from kvsim.kernels.pages.rank import least

Ints: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]

SCORE_FLOOR = 1e-6
"""Added to a score before its logarithm."""

# of a layer: pages read last, [num_sequences] each; then whether it was predicted, and whether its errors are known
WAS_PREDICTED, IS_CORRECTED = -2, -1


@njit
def learn_errors(logs: Floats, row: Ints, scores: Floats, first: int, step: int, decay_frac: float) -> None:
    """Take in by how much a layer's predicted scores were wrong; `logs`: predicted and correction, ``[2, ids]``."""
    if not row[WAS_PREDICTED]:
        return
    decay = decay_frac if row[IS_CORRECTED] else 0.0
    for sequence in range(scores.shape[0]):
        begin = first + sequence * step
        for index in range(scores.shape[1]):
            error = log(scores[sequence, index] + SCORE_FLOOR) - logs[0, begin + index]
            logs[1, begin + index] = decay * logs[1, begin + index] + (1.0 - decay) * error
    row[WAS_PREDICTED] = 0
    row[IS_CORRECTED] = 1


@njit
def expect(
    use: Floats,
    logs: Floats,
    row: Ints,
    speculation: Floats,
    movable: Mask,
    resident: Mask,
    reach_frac: float,
    first: int,
    step: int,
) -> None:
    """Set the predicted use of a layer's movable pages by their corrected scores."""
    num_pages = speculation.shape[1]
    ranks = np.empty(num_pages)
    for sequence in range(speculation.shape[0]):
        begin = first + sequence * step
        num_free, num_fixed = 0, 0
        for index in range(num_pages):
            page = begin + index
            logs[0, page] = log(speculation[sequence, index] + SCORE_FLOOR)
            if movable[page]:
                ranks[num_free] = logs[0, page] + logs[1, page]
                num_free += 1
            else:
                num_fixed += resident[page]
        if num_free == 0:
            continue
        count = min(int(reach_frac * max(row[sequence] - num_fixed, 0)), num_free)
        free = ranks[:num_free]
        bar = np.partition(free, num_free - count)[num_free - count] if count else free.max()
        for index in range(num_pages):
            page = begin + index
            if movable[page]:
                rank = logs[0, page] + logs[1, page]
                use[page] = exp(rank - bar)
                if count and rank >= bar:
                    use[page] += 1.0
    row[WAS_PREDICTED] = 1


@njit
def count_read(rows: Ints, layer: int, selected: Ints, first: int, step: int) -> None:
    """Take down how many pages a layer reads of each sequence."""
    num_sequences = rows.shape[1] + WAS_PREDICTED
    rows[layer, :num_sequences] = 0
    for page in selected:
        rows[layer, (page - first) // step] += 1


@njit
def worth(use: float, ahead: int, num_layers: int) -> float:
    """Return what keeping a page is worth, by its predicted use and the layers until its own is computed next."""
    return use if use < 1.0 else 2.0 + num_layers - ahead - 1.0 / use


@njit
def _least(
    use: Floats, layer: int, pool: int, pools: tuple[int, int, int, int], count: int, evictable: Mask
) -> tuple[Ints, Floats]:
    """Return up to `count` pages that may leave, the least worth first, and what they are worth."""
    if count == 0:
        return np.empty(0, dtype=np.int64), np.empty(0)
    num_pools, _, pages_per_layer, step = pools
    num_layers = step // pages_per_layer
    keys = np.empty(use.size)
    for first in range(0, use.size, pages_per_layer):
        ahead = (first // pages_per_layer - layer - 1) % num_layers + 1
        for page in range(first, first + pages_per_layer):
            if evictable[page]:
                keys[page] = worth(use[page], ahead, num_layers)
    leaving = least(keys, pool, num_pools, pages_per_layer, count, evictable, np.empty(0, dtype=np.bool_))
    return leaving, keys[leaving]


@njit
def decide(
    tables: Floats,
    logs: Floats,
    rows: Ints,
    needs: Floats,
    is_unread: Mask,
    scores: Floats,
    speculation: Floats,
    selected: Ints,
    num_misses: int,
    flags: tuple[Mask, Mask, Mask],
    settings: tuple[float, float, float, float, float, float, float],
    place: tuple[int, int, int],
    pools: tuple[int, int, int, int],
) -> tuple[Ints, Ints, float]:
    """Return victims, prefetches and the confidence after one decision.

    Parameters
    ----------
    tables, logs
        Recent scores and predicted use; logarithms of predicted scores and corrections; ``[2, num_page_ids]`` each.
    rows, needs
        Of each layer: `count_read`, and pages that had to come for it, a mean over steps (NaN: none known).
    speculation
        The next layer's scores, ``[num_sequences, num_pages]``; no pages where it was not predicted.
    flags
        Of each page: resident, evictable, prefetchable.
    settings
        Confidence, its step, the wanted precision, the decays of scores, of errors and of needs, and the reach.
    place, pools
        Layer, free slots and quota; number of pools, slots of each, pages a layer and ids from a sequence to the next.
    """
    confidence, confidence_step, target_frac, decay_frac, error_decay_frac, need_decay_frac, reach_frac = settings
    layer, free_slots, quota = place
    num_pools, pool_slots, pages_per_layer, step = pools
    resident, evictable, prefetchable = flags
    num_layers = rows.shape[0]
    first = layer * pages_per_layer
    use = tables[1]
    used = learn(tables, is_unread, scores, selected, first, step, decay_frac)
    learn_errors(logs, rows[layer], scores, first, step, error_decay_frac)
    count_read(rows, layer, selected, first, step)
    came = float(num_misses + used)
    needs[layer] = came if np.isnan(needs[layer]) else need_decay_frac * needs[layer] + (1 - need_decay_frac) * came
    confidence = adapted(confidence, confidence_step, target_frac, used, 0)

    coming = layer
    if speculation.shape[1]:
        coming = (layer + 1) % num_layers
        for sequence in range(scores.shape[0]):
            if rows[coming, sequence] == 0:
                rows[coming, sequence] = rows[layer, sequence]
        movable = evictable | prefetchable
        begin = coming * pages_per_layer
        expect(use, logs, rows[coming], speculation, movable, resident, reach_frac, begin, step)
    candidates = np.empty(0, dtype=np.int64)
    if quota:
        sizes = (scores.shape[0], pages_per_layer)
        candidates = likely_pages(use, prefetchable, confidence, quota, coming * pages_per_layer, step, sizes)

    due = max(0, -free_slots)
    if num_pools > 1 and coming != layer:
        leaving, _ = _least(use, layer, layer, pools, due, evictable)
        num_free = pool_slots
        for sequence in range(scores.shape[0]):
            begin = coming * pages_per_layer + sequence * step
            num_free -= resident[begin : begin + pages_per_layer].sum()
        rivals = max(0, candidates.size - num_free)
        pushed_out, resident_worth = _least(use, layer, coming, pools, rivals, evictable)
    else:
        num_free = max(0, free_slots)
        count = max(0, candidates.size - free_slots)
        both, worths = _least(use, layer, layer if num_pools > 1 else 0, pools, count, evictable)
        leaving, pushed_out, resident_worth = both[:due], both[due:], worths[due:]
    num_worth = 0
    ahead = (coming - layer - 1) % num_layers + 1
    while num_worth < pushed_out.size:
        if not worth(use[candidates[num_free + num_worth]], ahead, num_layers) > resident_worth[num_worth]:
            break
        num_worth += 1
    victims = np.concatenate((leaving, pushed_out[:num_worth]))
    prefetches = candidates[: min(num_free, candidates.size) + num_worth]
    wasted = 0
    for page in victims:
        wasted += is_unread[page]
        is_unread[page] = False
    for page in prefetches:
        is_unread[page] = True
    return victims, prefetches, adapted(confidence, confidence_step, target_frac, 0, wasted)
