"""Compiled policies for the step kernel: what `kvsim.policies.composed` decides with these parts, in one call.

`rules` says which parts; an evictor or a prefetcher joins by a number here and a branch in `decide`. The evictor has a
list a pool (`pages.lists`). The prefetcher keeps what each layer read in its latest steps as bits, a line for
each layer of each sequence and step of the window, used in turn.
"""

from __future__ import annotations

import numpy as np

from kvsim.kernels.arrays import compiled, int_rows, ints, masks, small_rows, word_rows
from kvsim.kernels.bits import lowest_bit
from kvsim.kernels.pages.lists import lru_touch, move_to_end, take_oldest
from kvsim.kernels.step.layout import (
    COMING,
    COUNTS,
    EVICTABLE,
    FLAGS,
    FREE,
    FREE_AFTER,
    LAYER,
    LEAVING,
    LINKS,
    LOST_BITS,
    NUM_LAYERS,
    NUM_SEQUENCES,
    PAGES_PER_LAYER,
    PLAN,
    PREFETCHABLE,
    QUOTA,
    READ_BITS,
    RULES,
    STEP,
)

# rules
POLICY, PREFETCHER, WINDOW_STEPS = range(3)
NUM_RULES = 3
NO_POLICY, KEEP_ALL, LRU = range(3)
NO_PREFETCH, NEXT_STEP = range(2)

_ONE, _LOW_SIX = np.uint64(1), np.uint64(63)


@compiled
def arrived(run, page):
    """Let a compiled policy learn that a page got a slot without being read."""
    counts, free, links = ints(run, COUNTS), ints(run, FREE), small_rows(run, LINKS)
    if ints(run, RULES)[POLICY] == LRU:
        pool = 0 if free.size == 1 else (page // counts[PAGES_PER_LAYER]) % counts[NUM_LAYERS]
        move_to_end(links, page, links.shape[0] - free.size + pool)


@compiled
def decide(run, selected):
    """Write the plan of one step and layer and return its sizes: victims, prefetches."""
    counts, rules = ints(run, COUNTS), ints(run, RULES)
    if rules[POLICY] == KEEP_ALL:
        return 0, 0
    free, links, plan = ints(run, FREE), small_rows(run, LINKS), int_rows(run, PLAN)
    sentinel = links.shape[0] - free.size + (0 if free.size == 1 else counts[LAYER])
    lru_touch(links, sentinel, selected)
    num_candidates = 0
    if rules[PREFETCHER] == NEXT_STEP:
        num_candidates = _next_step(run, selected)
    free_slots = counts[FREE_AFTER]
    num_due = num_candidates - free_slots
    if num_due <= 0:
        num_victims = 0
    else:
        evictable = masks(run, FLAGS)[EVICTABLE]
        num_victims = take_oldest(links, sentinel, num_due, evictable, evictable[:0], plan[LEAVING])
    num_prefetches = max(0, min(num_candidates, free_slots + num_victims))
    lru_touch(links, sentinel, plan[COMING, :num_prefetches])
    return num_victims, num_prefetches


@compiled
def _next_step(run, selected):
    """Write what the layer read within the window and is not there, latest first; return how many."""
    counts, bits, lost = ints(run, COUNTS), word_rows(run, READ_BITS), word_rows(run, LOST_BITS)
    window_steps, num_layers, size = ints(run, RULES)[WINDOW_STEPS], counts[NUM_LAYERS], counts[PAGES_PER_LAYER]
    first_page, first_line, now = counts[LAYER] * size, counts[LAYER] * window_steps, counts[STEP] % window_steps
    place, is_any = 0, False
    for sequence in range(counts[NUM_SEQUENCES]):
        place = _note(run, selected, place, first_page, first_line + now)
        for word in range(bits.shape[1]):
            lost[sequence, word] = _lost(run, first_page, first_line, first_line + now, word)
            is_any |= lost[sequence, word] != 0
        first_page += num_layers * size
        first_line += num_layers * window_steps
    return _latest(run, now) if is_any and counts[QUOTA] > 0 else 0


@compiled
def _note(run, selected, place, first_page, line):
    """Write what a sequence reads now, from `place` on, over what it read a window ago; return where it ends."""
    bits, end_page = word_rows(run, READ_BITS), first_page + ints(run, COUNTS)[PAGES_PER_LAYER]
    for word in range(bits.shape[1]):
        bits[line, word] = 0
    while place < selected.size and selected[place] < end_page:
        index = np.uint64(selected[place] - first_page)
        bits[np.uint64(line), index >> np.uint64(6)] |= _ONE << (index & _LOW_SIX)
        place += 1
    return place


@compiled
def _lost(run, first_page, first_line, line, word):
    """Return which of 64 pages of a layer were read within the window, are not read now, and are not there."""
    bits, prefetchable = word_rows(run, READ_BITS), masks(run, FLAGS)[PREFETCHABLE]
    read = np.uint64(0)
    for other in range(first_line, first_line + ints(run, RULES)[WINDOW_STEPS]):
        read |= bits[other, word]
    read &= ~bits[line, word]
    lost, first_page = np.uint64(0), first_page + (word << 6)
    while read != 0:
        bit = lowest_bit(read)
        lost |= np.uint64(prefetchable[np.uint64(first_page) + bit]) << bit
        read &= read - _ONE
    return lost


@compiled
def _latest(run, now):
    """Write the lost pages up to the quota, latest first, and of a step in order of their ids; return how many."""
    counts, bits, lost = ints(run, COUNTS), word_rows(run, READ_BITS), word_rows(run, LOST_BITS)
    coming, window_steps = int_rows(run, PLAN)[COMING], ints(run, RULES)[WINDOW_STEPS]
    num_candidates, slot = 0, now
    for _ in range(window_steps - 1):
        slot = slot - 1 if slot else window_steps - 1
        layer = counts[LAYER]
        for sequence in range(counts[NUM_SEQUENCES]):
            for word in range(bits.shape[1]):
                lost_bits = bits[layer * window_steps + slot, word] & lost[sequence, word]
                if lost_bits == 0:
                    continue
                lost[sequence, word] ^= lost_bits
                while lost_bits != 0:
                    coming[num_candidates] = (
                        layer * counts[PAGES_PER_LAYER] + (word << 6) + np.int64(lowest_bit(lost_bits))
                    )
                    lost_bits &= lost_bits - _ONE
                    num_candidates += 1
                    if num_candidates == counts[QUOTA]:
                        return num_candidates
            layer += counts[NUM_LAYERS]
    return num_candidates
