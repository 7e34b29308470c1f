"""Whole decode steps in one call: host, compute stream, link and books, up to where somebody else must act.

`go_on` is a coroutine in all but name: it goes on from the phase it left, until steps are done or a policy that is no
kernel has to decide. `kvsim.sim.whole_step` drives it; the event path of `kvsim.sim.simulation` is its plain twin.
"""

from __future__ import annotations

import numpy as np

from kvsim.kernels.arrays import compiled, float_rows, floats, int_rows, ints
from kvsim.kernels.books import carry_out, count, is_sound, open_pages, select
from kvsim.kernels.costs import remember
from kvsim.kernels.decide import NO_POLICY, POLICY, arrived, decide
from kvsim.kernels.host import launch, launch_after, spend, wait
from kvsim.kernels.layout import (
    AFTER,
    AFTER_FIRST,
    ALL_PAGES,
    ATTENDS_ALL,
    ATTENTION,
    ATTENTION_INPUT,
    ATTENTION_OUTPUT,
    BACK,
    BAD_PLAN,
    BEGIN_LAYER,
    BEGIN_STEP,
    BLOCK_START,
    CARRIED_BY,
    CHUNK,
    CLOCK,
    COMING,
    CONTEXT,
    COUNTS,
    DECIDE,
    DECIDING,
    DEMAND,
    DIGEST,
    DONE,
    EMBED,
    END_S,
    FORETELLS,
    FREE_AFTER,
    HEAD,
    HEAD_SEGMENT,
    HELD,
    HITS,
    HOLDS_ALL,
    IS_OPENING,
    IS_STUCK,
    IS_SYNCHRONOUS,
    ISSUED,
    KEEPS_ORDER,
    LAST_ATTENTION,
    LATE,
    LAYER,
    LEAVING,
    MISSES,
    MISSING,
    MOST_PER_STEP,
    NEXT_AFTER,
    NEXT_TRANSFER,
    NEXT_WORK,
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
    PAGES,
    PAGES_NOW,
    PAGES_PER_LAYER,
    PHASE,
    PLAN,
    PREFETCH,
    PREFETCHED,
    READINGS,
    READS_ALL,
    RING,
    ROW,
    ROW_DECIDE,
    ROW_DIGEST,
    ROW_STEP,
    ROW_SUBMIT,
    ROW_SYNC,
    ROWS,
    RULES,
    SELECT,
    SELECTED,
    SET_S,
    SIZE,
    SPECULATE,
    STEP,
    STEP_BEGAN_S,
    STEPS_DONE,
    STUCK,
    SUBMIT_BACK_S,
    SUBMIT_S,
    SYNC_S,
    TIMES,
    TO_DEVICE_BYTES,
    TO_HOST_BYTES,
    TRANSFERS,
    UNFILLED_TOKENS,
    UNRESOLVED,
    WAITS_FOR_SCORES,
    WANTS_PLAN,
    WANTS_ROOM,
    WINDOW,
    WORKS,
    WRITTEN_BY,
)
from kvsim.kernels.link import advance, append, make_transfer, remove, submit
from kvsim.kernels.stream import has_arrived


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
    if counts[FORETELLS] and counts[LAYER] + 1 < counts[NUM_LAYERS]:
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
    waits_first, waits_count = _move(run, chosen, misses, victims, prefetches)
    tokens = chosen.size * counts[PAGE_TOKENS] - counts[UNFILLED_TOKENS]
    counts[LAST_ATTENTION] = launch_after(run, ATTENTION, tokens, waits_first, waits_count)
    launch(run, ATTENTION_OUTPUT, counts[NUM_SEQUENCES])


@compiled
def _move(run, chosen, misses, victims, prefetches):
    """Submit what the decision moves; return what attention must wait for: where the list begins, and its length."""
    counts, clock = ints(run, COUNTS), floats(run, CLOCK)
    waits_first = counts[NEXT_AFTER]
    num_late = 0
    if counts[OLDEST_TRANSFER] != counts[NEXT_TRANSFER]:
        num_late = _late(run, chosen)
    after_first = counts[NEXT_AFTER]
    reader, read_s = -1, np.nan
    if victims.size:
        reader, read_s = _reader(run)
        _slots_free(run, victims)
    after_count = counts[NEXT_AFTER] - after_first
    submissions = _force(run, waits_first, num_late)
    demand = -1
    if misses.size:
        demand = make_transfer(run, misses.size, after_first, after_count, reader, read_s)
        spend(run, ROW_SUBMIT, clock[SUBMIT_S])
        submit(run, DEMAND, demand)
    if prefetches.size:
        submissions += _prefetch(run, prefetches, after_first, after_count, reader, read_s)
    submissions += _issue(run)
    if submissions:
        spend(run, ROW_SUBMIT, submissions * clock[SUBMIT_S])
    if counts[NUM_FILLED] and not counts[HOLDS_ALL]:
        _write_back(run)
    return _waits(run, waits_first, num_late, demand), num_late + (demand >= 0)


@compiled
def _prefetch(run, prefetches, after_first, after_count, reader, read_s):
    """Make the transfers of some prefetches, and submit or hold them back; return how many were submitted."""
    counts, pages = ints(run, COUNTS), int_rows(run, PAGES)
    chunk = prefetches.size if counts[ATTENDS_ALL] else counts[CHUNK]
    submissions = 0
    for start in range(0, prefetches.size, max(1, chunk)):
        size = min(chunk, prefetches.size - start)
        number = make_transfer(run, size, after_first, after_count, reader, read_s)
        for each in range(start, start + size):
            pages[prefetches[each], CARRIED_BY] = number
        if counts[KEEPS_ORDER]:
            append(run, HELD, number)
        else:
            submit(run, PREFETCH, number)
            submissions += 1
    return submissions


@compiled
def _add_carrier(run, first, number):
    """Enter a transfer in the ascending list that began at `first`, once."""
    counts, ring = ints(run, COUNTS), int_rows(run, RING)
    mask = ring.shape[1] - 1
    place = counts[NEXT_AFTER]
    while place > first and ring[AFTER, (place - 1) & mask] >= number:
        if ring[AFTER, (place - 1) & mask] == number:
            return
        place -= 1
    for each in range(counts[NEXT_AFTER], place, -1):
        ring[AFTER, each & mask] = ring[AFTER, (each - 1) & mask]
    ring[AFTER, place & mask] = number
    counts[NEXT_AFTER] += 1


@compiled
def _late(run, chosen):
    """List the prefetches that still carry selected pages; return how many, and count the pages."""
    counts, done, pages, rows = ints(run, COUNTS), float_rows(run, DONE), int_rows(run, PAGES), int_rows(run, ROWS)
    first, late = counts[NEXT_AFTER], 0
    for page in chosen:
        number = pages[page, CARRIED_BY]
        if number >= 0 and not has_arrived(counts, done, number):
            late += 1
            _add_carrier(run, first, number)
    rows[counts[ROW], LATE] += late
    return counts[NEXT_AFTER] - first


@compiled
def _reader(run):
    """Return the last attention, which slots must wait for, and when it ends if that is known by now; -1 if it has."""
    counts, clock, works = ints(run, COUNTS), floats(run, CLOCK), float_rows(run, WORKS)
    number = counts[LAST_ATTENTION]
    if counts[IS_SYNCHRONOUS] or number < 0 or number + works.shape[0] <= counts[NEXT_WORK]:
        return -1, np.nan
    work = works[number & (works.shape[0] - 1)]
    if number >= counts[UNRESOLVED] or clock[NOW] < work[SET_S]:
        return number, np.nan
    if work[END_S] > clock[NOW]:
        return number, clock[NOW] + (work[END_S] - clock[NOW])
    return -1, np.nan


@compiled
def _slots_free(run, victims):
    """List what the slots of `victims` must wait for: prefetches that still fill them, and write-backs."""
    counts, ring, done, pages = ints(run, COUNTS), int_rows(run, RING), float_rows(run, DONE), int_rows(run, PAGES)
    first = counts[NEXT_AFTER]
    for page in victims:
        number = pages[page, CARRIED_BY]
        if number >= 0 and not has_arrived(counts, done, number):
            _add_carrier(run, first, number)
        pages[page, CARRIED_BY] = -1
    _force(run, first, counts[NEXT_AFTER] - first)
    for page in victims:
        number = pages[page, WRITTEN_BY]
        if number >= 0 and not has_arrived(counts, done, number):
            ring[AFTER, counts[NEXT_AFTER] & (ring.shape[1] - 1)] = number
            counts[NEXT_AFTER] += 1


@compiled
def _force(run, first, size):
    """Issue those of some transfers that the host holds back, in the order of holding; return how many."""
    counts, ring = ints(run, COUNTS), int_rows(run, RING)
    mask = ring.shape[1] - 1
    issued = place = 0
    while size and place < counts[SIZE + HELD]:
        number = ring[HELD, (counts[HEAD + HELD] + place) & mask]
        is_waited = False
        for each in range(size):
            is_waited = is_waited or ring[AFTER, (first + each) & mask] == number
        if is_waited:
            remove(run, HELD, place)
            append(run, ISSUED, number)
            submit(run, DEMAND, number)
            issued += 1
        else:
            place += 1
    return issued


@compiled
def _issue(run):
    """Issue what is held back up to the window; return how many."""
    counts, clock, ring, done = ints(run, COUNTS), floats(run, CLOCK), int_rows(run, RING), float_rows(run, DONE)
    if not counts[KEEPS_ORDER]:
        return 0
    advance(run, clock[NOW])
    mask = ring.shape[1] - 1
    while counts[SIZE + ISSUED] and has_arrived(counts, done, ring[ISSUED, counts[HEAD + ISSUED] & mask]):
        remove(run, ISSUED, 0)
    issued = 0
    while counts[SIZE + HELD] and counts[SIZE + ISSUED] < counts[WINDOW]:
        number = remove(run, HELD, 0)
        append(run, ISSUED, number)
        submit(run, DEMAND, number)
        issued += 1
    return issued


@compiled
def _write_back(run):
    """Copy pages that this step filled to the host, once."""
    counts, clock, context = ints(run, COUNTS), floats(run, CLOCK), int_rows(run, CONTEXT)
    pages, rows, now = int_rows(run, PAGES), int_rows(run, ROWS), ints(run, PAGES_NOW)
    for sequence in range(counts[NUM_SEQUENCES]):
        if now[sequence] * counts[PAGE_TOKENS] != context[counts[STEP] - counts[BLOCK_START], sequence]:
            continue
        first = (sequence * counts[NUM_LAYERS] + counts[LAYER]) * counts[PAGES_PER_LAYER]
        number = make_transfer(run, 1, counts[NEXT_AFTER], 0, -1, np.nan)
        pages[first + now[sequence] - 1, WRITTEN_BY] = number
        spend(run, ROW_SUBMIT, clock[SUBMIT_BACK_S])
        submit(run, BACK, number)
        rows[counts[ROW], TO_HOST_BYTES] += counts[PAGE_BYTES]


@compiled
def _waits(run, first, num_late, demand):
    """Write what attention waits for in a list of its own, late pages first, and return where it begins."""
    if demand < 0:
        return first
    counts, ring = ints(run, COUNTS), int_rows(run, RING)
    mask = ring.shape[1] - 1
    begin = counts[NEXT_AFTER]
    for each in range(num_late):
        ring[AFTER, (begin + each) & mask] = ring[AFTER, (first + each) & mask]
    ring[AFTER, (begin + num_late) & mask] = demand
    counts[NEXT_AFTER] = begin + num_late + 1
    return begin


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
