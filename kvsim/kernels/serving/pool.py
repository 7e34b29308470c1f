"""The block pool and the prefix index; the plain twins are `kvsim.caches.blocks.BlockPool` and its parts."""

from __future__ import annotations

from kvsim.kernels.arrays import compiled, int_rows, ints
from kvsim.kernels.serving.layout import (
    AFTER,
    BEFORE,
    BLOCKED_HITS,
    BLOCKED_KEY,
    BLOCKED_REQUEST,
    BLOCKS,
    COUNTS,
    EVICTED,
    FIRST,
    FIRST_KEY,
    HOLDERS,
    KEY,
    KEYS,
    NEXT_STEP,
    NONE,
    NUM_FREE,
    NUM_SECTIONS,
    NUMBERS,
    PLACE,
    RECORDING,
    REQUESTS,
    SAME_AFTER,
    SAME_BEFORE,
    STEPS,
    STORED,
)


@compiled
def take(core):
    """Return the first free block, held once; it loses its key."""
    blocks = int_rows(core, BLOCKS)
    block = blocks[blocks.shape[0] - 1, AFTER]
    remove_free(core, block)
    if blocks[block, KEY] != NONE:
        _evict(core, block)
    blocks[block, HOLDERS] = 1
    return block


@compiled
def hold(core, block):
    """Hold a cached block once more."""
    blocks = int_rows(core, BLOCKS)
    if blocks[block, HOLDERS] == 0:
        remove_free(core, block)
    blocks[block, HOLDERS] += 1


@compiled
def insert_free(core, block, before):
    """Put a block into the free queue behind another one, or behind the sentinel: at the front."""
    blocks = int_rows(core, BLOCKS)
    after = blocks[before, AFTER]
    blocks[block, BEFORE], blocks[block, AFTER] = before, after
    blocks[before, AFTER], blocks[after, BEFORE] = block, block
    ints(core, NUMBERS)[NUM_FREE] += 1


@compiled
def remove_free(core, block):
    """Take a block out of the free queue."""
    blocks = int_rows(core, BLOCKS)
    before, after = blocks[block, BEFORE], blocks[block, AFTER]
    blocks[before, AFTER], blocks[after, BEFORE] = after, before
    ints(core, NUMBERS)[NUM_FREE] -= 1


@compiled
def store(core, block, key, place):
    """Cache a block under a key, behind all others of this key; `place` is where it stands in its chain."""
    numbers, blocks, firsts = ints(core, NUMBERS), int_rows(core, BLOCKS), ints(core, FIRST)
    blocks[block, KEY], blocks[block, PLACE], blocks[block, SAME_AFTER] = key, place, NONE
    first = firsts[key]
    if first == NONE:
        firsts[key], blocks[block, SAME_BEFORE] = block, block
    else:
        last = blocks[first, SAME_BEFORE]
        blocks[last, SAME_AFTER], blocks[block, SAME_BEFORE], blocks[first, SAME_BEFORE] = block, last, block
    if key == numbers[BLOCKED_KEY]:
        numbers[BLOCKED_REQUEST] = NONE
    _record(core, STORED, key)


@compiled
def _evict(core, block):
    """Take a block's key."""
    blocks, firsts = int_rows(core, BLOCKS), ints(core, FIRST)
    key = blocks[block, KEY]
    first, before, after = firsts[key], blocks[block, SAME_BEFORE], blocks[block, SAME_AFTER]
    if block == first:
        firsts[key] = after
        if after != NONE:
            blocks[after, SAME_BEFORE] = before
    else:
        blocks[before, SAME_AFTER] = after
        blocks[first if after == NONE else after, SAME_BEFORE] = before
    blocks[block, KEY] = NONE
    _note_eviction(core, key, blocks[block, PLACE])
    _record(core, EVICTED, key)


@compiled
def _note_eviction(core, key, place):
    """Keep what is known of the blocked request true: its hits end at the key, or have to be looked up again."""
    numbers = ints(core, NUMBERS)
    blocked = numbers[BLOCKED_REQUEST]
    if blocked == NONE:
        return
    if ints(core, FIRST)[key] != NONE:
        numbers[BLOCKED_REQUEST] = NONE
    elif (
        place < numbers[BLOCKED_HITS] and ints(core, KEYS)[int_rows(core, REQUESTS)[blocked, FIRST_KEY] + place] == key
    ):
        numbers[BLOCKED_HITS], numbers[BLOCKED_KEY] = place, key


@compiled
def _record(core, section, key):
    """Write a key into a section of the next step; where there is no room it is counted only."""
    numbers, counts, steps = ints(core, NUMBERS), int_rows(core, COUNTS), int_rows(core, STEPS)
    if numbers[RECORDING]:
        step = numbers[NEXT_STEP]
        place = counts[step, section]
        if place < steps.shape[1]:
            steps[step * NUM_SECTIONS + section, place] = key
        counts[step, section] = place + 1
