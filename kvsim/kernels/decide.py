"""Compiled policies for whole steps: what `kvsim.policies.paged` decides with these parts, in one call.

`rules` says which parts; an evictor or a prefetcher joins by a number here and a branch in `decide`. The evictor has a
list a pool (`kvsim.kernels.lists`). The prefetcher keeps what each layer read in its latest steps as bits, a line for
each layer of each sequence and step of the window, used in turn.
"""

from __future__ import annotations

import numpy as np

from kvsim.kernels.arrays import compiled, int_rows, ints, masks, word_rows
from kvsim.kernels.bits import lowest_bit
from kvsim.kernels.layout import (
    COMING,
    COUNTS,
    EVICTABLE,
    FLAGS,
    FREE,
    FREE_AFTER,
    LAYER,
    LEAVING,
    LINKS,
    NUM_LAYERS,
    NUM_SEQUENCES,
    PAGES_PER_LAYER,
    PLAN,
    PREFETCHABLE,
    QUOTA,
    READ_BITS,
    RULES,
    SEEN_BITS,
    STEP,
)
from kvsim.kernels.lists import move_to_end, take_oldest

# rules
POLICY, PREFETCHER, WINDOW_STEPS = range(3)
NUM_RULES = 3
NO_POLICY, KEEP_ALL, LRU = range(3)
NO_PREFETCH, NEXT_STEP = range(2)

_ONE, _LOW_SIX = np.uint64(1), np.uint64(63)


@compiled
def arrived(run, page):
    """Let a compiled policy learn that a page got a slot without being read."""
    counts, free, links = ints(run, COUNTS), ints(run, FREE), int_rows(run, LINKS)
    if ints(run, RULES)[POLICY] == LRU:
        pool = 0 if free.size == 1 else (page // counts[PAGES_PER_LAYER]) % counts[NUM_LAYERS]
        move_to_end(links, page, links.shape[0] - free.size + pool)


@compiled
def decide(run, selected):
    """Write the plan of one step and layer and return its sizes: victims, prefetches."""
    counts, rules = ints(run, COUNTS), ints(run, RULES)
    if rules[POLICY] == KEEP_ALL:
        return 0, 0
    free, links, plan = ints(run, FREE), int_rows(run, LINKS), int_rows(run, PLAN)
    sentinel = links.shape[0] - free.size + (0 if free.size == 1 else counts[LAYER])
    for page in selected:
        move_to_end(links, page, sentinel)
    num_wanted = 0
    if rules[PREFETCHER] == NEXT_STEP:
        num_wanted = _next_step(run, selected)
    free_slots = counts[FREE_AFTER]
    num_due = num_wanted - free_slots
    if num_due <= 0:
        num_victims = 0
    else:
        evictable = masks(run, FLAGS)[EVICTABLE]
        num_victims = take_oldest(links, sentinel, num_due, evictable, evictable[:0], plan[LEAVING])
    num_prefetches = max(0, min(num_wanted, free_slots + num_victims))
    for place in range(num_prefetches):
        move_to_end(links, plan[COMING, place], sentinel)
    return num_victims, num_prefetches


@compiled
def _note(run, line, selected):
    """Write what is read now over what was read a window ago, and begin to see with that."""
    counts, bits, seen = ints(run, COUNTS), word_rows(run, READ_BITS), word_rows(run, SEEN_BITS)
    window_steps, num_layers, size = ints(run, RULES)[WINDOW_STEPS], counts[NUM_LAYERS], counts[PAGES_PER_LAYER]
    first, place = counts[LAYER] * size, 0
    for sequence in range(counts[NUM_SEQUENCES]):
        now = line + sequence * num_layers * window_steps
        for word in range(bits.shape[1]):
            bits[now, word] = 0
        while place < selected.size and selected[place] < first + size:
            index = np.uint64(selected[place] - first)
            bits[now, index >> np.uint64(6)] |= _ONE << (index & _LOW_SIX)
            place += 1
        for word in range(bits.shape[1]):
            seen[sequence, word] = bits[now, word]
        first += num_layers * size


@compiled
def _next_step(run, selected):
    """Write what the layer read within the window and is not there, latest first; return how many."""
    counts, bits, seen = ints(run, COUNTS), word_rows(run, READ_BITS), word_rows(run, SEEN_BITS)
    wanted, prefetchable = int_rows(run, PLAN)[COMING], masks(run, FLAGS)[PREFETCHABLE]
    window_steps, num_layers, size = ints(run, RULES)[WINDOW_STEPS], counts[NUM_LAYERS], counts[PAGES_PER_LAYER]
    first_line, now = counts[LAYER] * window_steps, counts[STEP] % window_steps
    _note(run, first_line + now, selected)
    num_wanted, quota, slot = 0, counts[QUOTA], now
    for _ in range(window_steps - 1 if quota > 0 else 0):
        slot = slot - 1 if slot else window_steps - 1
        for sequence in range(counts[NUM_SEQUENCES]):
            line = first_line + slot + sequence * num_layers * window_steps
            for word in range(bits.shape[1]):
                new = bits[line, word] & ~seen[sequence, word]
                seen[sequence, word] |= new
                while new != 0:
                    page = (sequence * num_layers + counts[LAYER]) * size + (word << 6) + np.int64(lowest_bit(new))
                    new &= new - _ONE
                    if prefetchable[page]:
                        wanted[num_wanted] = page
                        num_wanted += 1
                        if num_wanted == quota:
                            return num_wanted
    return num_wanted
