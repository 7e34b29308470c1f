"""Waiting requests are admitted in their order, until one does not fit.

A request that is blocked at the head of the queue asks again in every step, and to look up a long prompt takes as long
as all the rest. So the reason is kept: how many of its hits were held by others. The rest of its blocks must come from
the free ones, and while nothing is admitted that number can only fall, but for two events that forget it: the key that
ended the hits is cached, or an evicted block leaves a duplicate behind (`pool`). Until then too few free blocks are
too few without a look.
"""

from __future__ import annotations

from kvsim.kernels.arrays import compiled, int_rows, ints
from kvsim.kernels.serving.layout import (
    ADMITTED,
    BLOCK_TOKENS,
    BLOCKED_HELD,
    BLOCKED_HITS,
    BLOCKED_KEY,
    BLOCKED_REQUEST,
    BLOCKS,
    CACHED,
    CACHING,
    CHUNKED,
    COMPUTED,
    FIRST,
    FIRST_KEY,
    HELD,
    HIT_TOKENS,
    HOLDERS,
    KEYS,
    LISTS,
    MAX_SEQUENCES,
    NEXT_STEP,
    NONE,
    NUM_FREE,
    NUM_RUNNING,
    NUM_WAITING,
    NUMBERS,
    REQUESTS,
    RESERVE,
    RUNNING,
    SLOT,
    SLOTS,
    TABLES,
    TOKENS,
    WATERMARK_BLOCKS,
)
from kvsim.kernels.serving.pool import hold
from kvsim.kernels.serving.queues import head, pop
from kvsim.kernels.serving.running import append, plan
from kvsim.kernels.serving.tables import blocks_of, extend


@compiled
def schedule_waiting(core, limit, tokens_left):
    """Admit requests, with `limit` tokens each at most, until one does not fit: nobody overtakes it."""
    numbers, requests = ints(core, NUMBERS), int_rows(core, REQUESTS)
    while tokens_left > 0 and numbers[NUM_WAITING] > 0 and numbers[NUM_RUNNING] < numbers[MAX_SEQUENCES]:
        request = head(core)
        if _is_still_blocked(core, request):
            return
        num_hits, num_held = _lookup(core, request)
        hit_tokens = num_hits * numbers[BLOCK_TOKENS]
        tokens = min(requests[request, TOKENS] - hit_tokens, limit)
        if tokens > tokens_left and not numbers[CHUNKED]:
            return
        tokens = min(tokens, tokens_left)
        reserved_tokens = requests[request, TOKENS] if numbers[RESERVE] else hit_tokens + tokens
        if not _fits(core, reserved_tokens, num_held):
            _note_blocked(core, request, num_hits, num_held)
            return
        _admit(core, request, num_hits, hit_tokens + tokens)
        plan(core, request, tokens)
        tokens_left -= tokens


@compiled
def _fits(core, num_tokens, num_held):
    """Return whether the blocks of so many tokens can be had, where others hold `num_held` of them."""
    numbers = ints(core, NUMBERS)
    watermark_blocks = numbers[WATERMARK_BLOCKS] if numbers[NUM_RUNNING] > 0 else 0
    return blocks_of(core, num_tokens) - num_held + watermark_blocks <= numbers[NUM_FREE]


@compiled
def _is_still_blocked(core, request):
    """Return whether a request cannot fit, by what is known of it since it did not fit last."""
    numbers = ints(core, NUMBERS)
    if numbers[BLOCKED_REQUEST] != request:
        return False
    return not _fits(core, int_rows(core, REQUESTS)[request, TOKENS], numbers[BLOCKED_HELD])


@compiled
def _note_blocked(core, request, num_hits, num_held):
    """Keep why a request does not fit; only a reserve that does not depend on the budget stays the same."""
    numbers, row = ints(core, NUMBERS), int_rows(core, REQUESTS)[request]
    if numbers[RESERVE]:
        numbers[BLOCKED_REQUEST], numbers[BLOCKED_HITS], numbers[BLOCKED_HELD] = request, num_hits, num_held
        has_more = numbers[CACHING] and num_hits < (row[TOKENS] - 1) // numbers[BLOCK_TOKENS]
        numbers[BLOCKED_KEY] = ints(core, KEYS)[row[FIRST_KEY] + num_hits] if has_more else NONE


@compiled
def _lookup(core, request):
    """Write the cached prefix of a request to the next unused block table; return its blocks and those held."""
    numbers, row, blocks = ints(core, NUMBERS), int_rows(core, REQUESTS)[request], int_rows(core, BLOCKS)
    keys, firsts = ints(core, KEYS), ints(core, FIRST)
    table = int_rows(core, TABLES)[int_rows(core, LISTS)[SLOTS, numbers[NUM_RUNNING]]]
    num_hits = num_held = 0
    longest = (row[TOKENS] - 1) // numbers[BLOCK_TOKENS] if numbers[CACHING] else 0
    while num_hits < longest:
        block = firsts[keys[row[FIRST_KEY] + num_hits]]
        if block == NONE:
            break
        table[num_hits] = block
        num_held += blocks[block, HOLDERS] > 0
        num_hits += 1
    return num_hits, num_held


@compiled
def _admit(core, request, num_hits, num_tokens):
    """Let the head of the queue run, with the hits that `_lookup` wrote and room for `num_tokens` tokens."""
    numbers, lists, row = ints(core, NUMBERS), int_rows(core, LISTS), int_rows(core, REQUESTS)[request]
    pop(core)
    row[SLOT] = lists[SLOTS, numbers[NUM_RUNNING]]
    lists[RUNNING, numbers[NUM_RUNNING]] = request
    numbers[NUM_RUNNING] += 1
    numbers[BLOCKED_REQUEST] = NONE
    table = int_rows(core, TABLES)[row[SLOT]]
    for place in range(num_hits):
        hold(core, table[place])
    row[HELD] = row[CACHED] = num_hits
    row[COMPUTED] = num_hits * numbers[BLOCK_TOKENS]
    extend(core, request, num_tokens, row[TOKENS])
    append(core, numbers[NEXT_STEP], ADMITTED, request)
    append(core, numbers[NEXT_STEP], HIT_TOKENS, row[COMPUTED])
