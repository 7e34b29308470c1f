"""The blocks of each request; the plain twin is `kvsim.caches.blocks.BlockTables`."""

from __future__ import annotations

from kvsim.kernels.arrays import compiled, int_rows, ints
from kvsim.kernels.serving.layout import (
    BEFORE,
    BLOCK_TOKENS,
    BLOCKS,
    CACHED,
    CACHING,
    FIRST_KEY,
    HELD,
    HOLDERS,
    KEY,
    KEYS,
    NONE,
    NUM_FREE,
    NUMBERS,
    REQUESTS,
    SLOT,
    TABLES,
)
from kvsim.kernels.serving.pool import insert_free, store, take


@compiled
def blocks_of(core, num_tokens):
    """Return how many blocks hold so many tokens."""
    block_tokens = ints(core, NUMBERS)[BLOCK_TOKENS]
    return (num_tokens + block_tokens - 1) // block_tokens


@compiled
def extend(core, request, num_tokens, num_known):
    """Give a request that runs blocks for `num_tokens` tokens in all; return False and change nothing if short."""
    row = int_rows(core, REQUESTS)[request]
    missing = blocks_of(core, num_tokens) - row[HELD]
    if missing > 0:
        if missing > ints(core, NUMBERS)[NUM_FREE]:
            return False
        table = int_rows(core, TABLES)[row[SLOT]]
        for place in range(row[HELD], row[HELD] + missing):
            table[place] = take(core)
        row[HELD] += missing
    cache(core, request, min(num_tokens, num_known))
    return True


@compiled
def cache(core, request, num_tokens):
    """Cache a request's blocks that are full with `num_tokens` tokens."""
    numbers, row = ints(core, NUMBERS), int_rows(core, REQUESTS)[request]
    full = num_tokens // numbers[BLOCK_TOKENS]
    if full > row[CACHED] and numbers[CACHING]:
        table, keys, first_key = int_rows(core, TABLES)[row[SLOT]], ints(core, KEYS), row[FIRST_KEY]
        for place in range(row[CACHED], full):
            store(core, table[place], keys[first_key + place], place)
        row[CACHED] = full


@compiled
def release(core, request):
    """Take all blocks from a request, the last first: those without a key go to the front, the others to the end."""
    blocks, row = int_rows(core, BLOCKS), int_rows(core, REQUESTS)[request]
    table, sentinel = int_rows(core, TABLES)[row[SLOT]], blocks.shape[0] - 1
    front = sentinel
    for place in range(row[HELD] - 1, -1, -1):
        block = table[place]
        blocks[block, HOLDERS] -= 1
        if blocks[block, HOLDERS] == 0:
            if blocks[block, KEY] == NONE:
                insert_free(core, block, front)
                front = block
            else:
                insert_free(core, block, blocks[sentinel, BEFORE])
    row[HELD] = row[CACHED] = 0
