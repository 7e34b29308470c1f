"""Whole decode steps in one call: host, compute stream, link and page table, up to where somebody else must act.

`go_on` is a coroutine in all but name: it goes on from the phase it left, until steps are done or a policy that is no
kernel has to decide. `kvsim.sim.fast_path` drives it; the event path of `kvsim.sim.simulation` is its plain twin.
"""

from __future__ import annotations

from kvsim.kernels.arrays import compiled, float_rows, floats, int_rows, ints
from kvsim.kernels.step.costs import remember
from kvsim.kernels.step.decide import NO_POLICY, POLICY, arrived, decide
from kvsim.kernels.step.host import launch, launch_after, spend, wait
from kvsim.kernels.step.layout import (
    AFTER_FIRST,
    ALL_PAGES,
    ATTENTION,
    ATTENTION_INPUT,
    ATTENTION_OUTPUT,
    BAD_PLAN,
    BEGIN_LAYER,
    BEGIN_STEP,
    BLOCK_START,
    CLOCK,
    COMING,
    CONTEXT,
    COUNTS,
    DECIDE,
    DECIDING,
    DIGEST,
    EMBED,
    FREE_AFTER,
    HEAD_SEGMENT,
    HITS,
    HOLDS_ALL,
    IS_OPENING,
    IS_STUCK,
    IS_SYNCHRONOUS,
    LAST_ATTENTION,
    LAYER,
    LEAVING,
    MISSES,
    MISSING,
    MOST_PER_STEP,
    NEXT_AFTER,
    NEXT_TRANSFER,
    NO_SLOT,
    NOW,
    NUM_FILLED,
    NUM_LAYERS,
    NUM_MISSES,
    NUM_OPENED,
    NUM_PAGES,
    NUM_SEQUENCES,
    OFFSETS,
    OLDEST_TRANSFER,
    OPENED,
    PAGE_BYTES,
    PAGE_TOKENS,
    PAGES_NOW,
    PHASE,
    PLAN,
    PREFETCHED,
    READINGS,
    READS_ALL,
    ROW,
    ROW_DECIDE,
    ROW_DIGEST,
    ROW_STEP,
    ROW_SYNC,
    ROWS,
    RULES,
    SELECT,
    SELECTED,
    SPECULATE,
    SPECULATES,
    STEP,
    STEP_BEGAN_S,
    STEPS_DONE,
    STUCK,
    SYNC_S,
    TIMES,
    TO_DEVICE_BYTES,
    TRANSFERS,
    UNFILLED_TOKENS,
    WAITS_FOR_SCORES,
    WANTS_PLAN,
    WANTS_ROOM,
)
from kvsim.kernels.step.link import advance
from kvsim.kernels.step.moves import move
from kvsim.kernels.step.page_table import carry_out, count, end_sequence, is_sound, open_pages, select


@compiled
def go_on(run, num_victims, num_prefetches, end_step):
    """Go on until `end_step`; return why it stopped, and the sizes of what a policy then sees.

    Parameters
    ----------
    run
        Address of the run's table of arrays (`kvsim.kernels.arrays`).
    num_victims, num_prefetches
        Sizes of the plan that a policy has written, where the last call wanted one.
    """
    counts, offsets, readings, plan = ints(run, COUNTS), ints(run, OFFSETS), ints(run, READINGS), int_rows(run, PLAN)
    asks = ints(run, RULES)[POLICY] == NO_POLICY
    num_layers = counts[NUM_LAYERS]
    while True:
        if counts[PHASE] == BEGIN_STEP:
            if counts[STEP] == end_step:
                return STEPS_DONE, 0, 0, 0
            _begin_step(run)
            counts[PHASE] = BEGIN_LAYER
        place = (counts[STEP] - counts[BLOCK_START]) * num_layers + counts[LAYER]
        chosen = readings[offsets[place] : offsets[place + 1]]
        if counts[PHASE] == BEGIN_LAYER:
            if not _has_room(run):
                return WANTS_ROOM, 0, 0, 0
            _until_decision(run, chosen)
            if asks:
                counts[PHASE] = DECIDING
                return WANTS_PLAN, counts[NUM_MISSES], counts[FREE_AFTER], counts[NUM_OPENED]
            for each in range(counts[NUM_OPENED]):
                arrived(run, ints(run, OPENED)[each])
            num_victims, num_prefetches = decide(run, chosen)
        missing = plan[MISSING, : counts[NUM_MISSES]]
        gone, coming = plan[LEAVING, :num_victims], plan[COMING, :num_prefetches]
        _sort(gone)
        if not is_sound(run, gone, coming):
            return BAD_PLAN, num_victims, num_prefetches, 0
        count(run, missing, gone, coming)
        if not carry_out(run, chosen, missing, gone, coming):
            return NO_SLOT, num_victims, num_prefetches, counts[NUM_MISSES]
        _after_decision(run, chosen, missing, gone, coming)
        counts[LAYER] += 1
        counts[PHASE] = BEGIN_LAYER
        if counts[LAYER] == num_layers:
            _end_step(run)
            counts[PHASE] = BEGIN_STEP
        if counts[IS_STUCK]:
            return STUCK, 0, 0, 0


@compiled
def _sort(pages):
    """Sort page ids in place: by insertion where they are few, else as a heap."""
    if pages.size > 32:
        for first in range(pages.size // 2 - 1, -1, -1):
            _sift(pages, first, pages.size)
        for end in range(pages.size - 1, 0, -1):
            pages[0], pages[end] = pages[end], pages[0]
            _sift(pages, 0, end)
        return
    for end in range(1, pages.size):
        page, place = pages[end], end
        while place > 0 and pages[place - 1] > page:
            pages[place] = pages[place - 1]
            place -= 1
        pages[place] = page


@compiled
def _sift(pages, place, end):
    page = pages[place]
    while 2 * place + 1 < end:
        below = 2 * place + 1
        if below + 1 < end and pages[below + 1] > pages[below]:
            below += 1
        if pages[below] <= page:
            break
        pages[place] = pages[below]
        place = below
    pages[place] = page


@compiled
def _has_room(run):
    """Return whether the rings hold what one more layer may bring, and what a step ago is still asked about.

    A transfer is asked about until the step is over in which it arrived.
    """
    counts = ints(run, COUNTS)
    in_flight = counts[NEXT_TRANSFER] - counts[OLDEST_TRANSFER]
    transfers = int_rows(run, TRANSFERS)
    mask, first, per_step = transfers.shape[0] - 1, counts[NEXT_AFTER], counts[MOST_PER_STEP]
    if in_flight:
        first = min(first, transfers[counts[OLDEST_TRANSFER] & mask, AFTER_FIRST])
    return in_flight + 2 * per_step <= mask and counts[NEXT_AFTER] - first + 3 * (in_flight + per_step) <= mask


@compiled
def _begin_step(run):
    """Begin a step: work out what is the same for all its layers, and launch the embedding."""
    counts, context, now = ints(run, COUNTS), int_rows(run, CONTEXT), ints(run, PAGES_NOW)
    num_pages, page_tokens = int_rows(run, NUM_PAGES), counts[PAGE_TOKENS]
    counts[LAYER] = counts[DIGEST] = 0
    counts[ALL_PAGES] = counts[UNFILLED_TOKENS] = counts[NUM_FILLED] = counts[IS_OPENING] = 0
    for sequence in range(counts[NUM_SEQUENCES]):
        tokens = context[counts[STEP] - counts[BLOCK_START], sequence]
        if tokens == 0:
            if now[sequence] > 0:
                end_sequence(run, sequence)
            now[sequence] = 0
            continue
        pages = -(-tokens // page_tokens)
        now[sequence] = pages
        counts[ALL_PAGES] += pages
        counts[UNFILLED_TOKENS] += pages * page_tokens - tokens
        counts[NUM_FILLED] += pages * page_tokens == tokens
        counts[IS_OPENING] |= pages > num_pages[sequence, 0]
    launch(run, EMBED, counts[NUM_SEQUENCES])


@compiled
def _until_decision(run, chosen):
    """Launch what comes before the decision, open pages, and find the misses."""
    counts, clock = ints(run, COUNTS), floats(run, CLOCK)
    launch(run, ATTENTION_INPUT, counts[NUM_SEQUENCES])
    if counts[SPECULATES] and counts[LAYER] + 1 < counts[NUM_LAYERS]:
        launch(run, SPECULATE, counts[ALL_PAGES])
    if not counts[READS_ALL]:
        scored = launch(run, SELECT, counts[ALL_PAGES])
        if counts[WAITS_FOR_SCORES]:
            wait(run, scored)
            spend(run, ROW_SYNC, clock[SYNC_S])
    counts[NUM_OPENED] = 0
    if counts[IS_OPENING]:
        open_pages(run)
    select(run, chosen)


@compiled
def _after_decision(run, chosen, misses, victims, prefetches):
    """Spend the decision's time, move what it moves, and launch the rest of the layer."""
    counts, clock = ints(run, COUNTS), floats(run, CLOCK)
    if not counts[HOLDS_ALL]:
        place = remember(run, DECIDE, chosen.size)
        spend(run, ROW_DECIDE, clock[place + 1])
    advance(run, clock[NOW])
    waits_first, waits_count = move(run, chosen, misses, victims, prefetches)
    tokens = chosen.size * counts[PAGE_TOKENS] - counts[UNFILLED_TOKENS]
    counts[LAST_ATTENTION] = launch_after(run, ATTENTION, tokens, waits_first, waits_count)
    launch(run, ATTENTION_OUTPUT, counts[NUM_SEQUENCES])


@compiled
def _end_step(run):
    """Launch the head, wait for it, and close the row."""
    counts, clock, times, rows = ints(run, COUNTS), floats(run, CLOCK), float_rows(run, TIMES), int_rows(run, ROWS)
    head = launch(run, HEAD_SEGMENT, counts[NUM_SEQUENCES])
    wait(run, head)
    times[counts[ROW], ROW_STEP] = clock[NOW] - clock[STEP_BEGAN_S]
    row = rows[counts[ROW]]
    row[ROW_DIGEST] = counts[DIGEST]
    row[HITS] = row[SELECTED] - row[MISSES]
    row[TO_DEVICE_BYTES] = (row[MISSES] + row[PREFETCHED]) * counts[PAGE_BYTES]
    clock[STEP_BEGAN_S] = clock[NOW]
    if not counts[IS_SYNCHRONOUS]:
        spend(run, ROW_SYNC, clock[SYNC_S])
    counts[STEP] += 1
    counts[ROW] += 1
