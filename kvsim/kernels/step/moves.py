"""What a decision moves over the link: demand and prefetch transfers, what each must wait for, and write-backs."""

from __future__ import annotations

import numpy as np

from kvsim.kernels.arrays import compiled, float_rows, floats, int_rows, ints
from kvsim.kernels.step.host import spend
from kvsim.kernels.step.layout import (
    AFTER,
    ATTENDS_ALL,
    BACK,
    BLOCK_START,
    CARRIED_BY,
    CHUNK,
    CLOCK,
    CONTEXT,
    COUNTS,
    DEMAND,
    DONE,
    END_S,
    HEAD,
    HELD,
    HOLDS_ALL,
    IS_SYNCHRONOUS,
    ISSUED,
    KEEPS_ORDER,
    LAST_ATTENTION,
    LATE,
    LAYER,
    NEXT_AFTER,
    NEXT_TRANSFER,
    NEXT_WORK,
    NOW,
    NUM_FILLED,
    NUM_LAYERS,
    NUM_SEQUENCES,
    OLDEST_TRANSFER,
    PAGE_BYTES,
    PAGE_TOKENS,
    PAGES,
    PAGES_NOW,
    PAGES_PER_LAYER,
    PREFETCH,
    RING,
    ROW,
    ROW_SUBMIT,
    ROWS,
    SET_S,
    SIZE,
    STEP,
    SUBMIT_BACK_S,
    SUBMIT_S,
    TO_HOST_BYTES,
    UNRESOLVED,
    WINDOW,
    WORKS,
    WRITTEN_BY,
)
from kvsim.kernels.step.link import advance, append, make_transfer, remove, submit
from kvsim.kernels.step.stream import has_arrived


@compiled
def move(run, chosen, misses, victims, prefetches):
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
        number = pages[np.uint64(page), CARRIED_BY]
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
    for victim in victims:
        page = np.uint64(victim)
        number = pages[page, CARRIED_BY]
        if number >= 0 and not has_arrived(counts, done, number):
            _add_carrier(run, first, number)
        pages[page, CARRIED_BY] = -1
    _force(run, first, counts[NEXT_AFTER] - first)
    for victim in victims:
        number = pages[np.uint64(victim), WRITTEN_BY]
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
        tokens = context[counts[STEP] - counts[BLOCK_START], sequence]
        if tokens == 0 or now[sequence] * counts[PAGE_TOKENS] != tokens:
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
