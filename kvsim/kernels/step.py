"""Whole decode steps in one call: host, compute stream, link and books, up to where somebody else must act.

`run` is a coroutine in all but name: it goes on from the phase it left, until steps are done or a policy that is not
compiled has to decide. `kvsim.sim.whole_step` drives it; the event path of `kvsim.sim.simulation` is its plain twin.
"""

from __future__ import annotations

import numba
import numpy as np

from kvsim.kernels.books import carry_out, count, is_sound, open_pages, select
from kvsim.kernels.costs import remember
from kvsim.kernels.decide import NO_POLICY, POLICY, arrived, decide
from kvsim.kernels.host import launch, spend, wait
from kvsim.kernels.layout import (
    AFTER,
    AFTER_FIRST,
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
    DECIDE,
    DECIDING,
    DEMAND,
    DIGEST,
    EMBED,
    END_S,
    FORETELLS,
    FREE_AFTER,
    HEAD,
    HEAD_SEGMENT,
    HELD,
    HOLDS_ALL,
    IS_STUCK,
    IS_SYNCHRONOUS,
    ISSUED,
    KEEPS_ORDER,
    LAST_ATTENTION,
    LATE,
    LAYER,
    NEXT_AFTER,
    NEXT_TRANSFER,
    NEXT_WORK,
    NO_SLOT,
    NOW,
    NUM_LAYERS,
    NUM_MISSES,
    NUM_OPENED,
    NUM_SEQUENCES,
    OLDEST_TRANSFER,
    PAGE_BYTES,
    PAGE_TOKENS,
    PAGES_PER_LAYER,
    PHASE,
    PREFETCH,
    QUOTA,
    READS_ALL,
    ROW,
    ROW_DECIDE,
    ROW_DIGEST,
    ROW_STEP,
    ROW_SUBMIT,
    ROW_SYNC,
    SELECT,
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
    TO_HOST_BYTES,
    UNRESOLVED,
    WAITS_FOR_SCORES,
    WANTS_PLAN,
    WANTS_ROOM,
    WINDOW,
    WRITTEN_BY,
)
from kvsim.kernels.link import advance, append, make_transfer, remove, submit
from kvsim.kernels.stream import has_arrived


@numba.njit(cache=True)
def run(
    counts, clock, ring, done, works, tables, carried_s, times, rows, flags, pages, num_pages, free, selected, offsets,
    context, opened, misses, held, victims, prefetches, rules, links, num_victims, num_prefetches, end_step,
):  # fmt: skip
    """Go on until `end_step`; return why it stopped, and the sizes of what a policy then sees.

    Parameters
    ----------
    num_victims, num_prefetches
        Sizes of the plan in `victims` and `prefetches`, where the last call wanted one.
    selected, offsets, context
        A block of readings: the page ids of step s and layer l stand from ``offsets[s * num_layers + l]`` on, with s
        counted from the block's first step; ``context[s]`` are the tokens of each sequence.
    """
    num_layers = counts[NUM_LAYERS]
    while True:
        if counts[PHASE] == BEGIN_STEP:
            if counts[STEP] == end_step:
                return STEPS_DONE, 0, 0, 0
            counts[LAYER] = 0
            counts[DIGEST] = 0
            launch(counts, clock, ring, done, works, tables, carried_s, times, EMBED, counts[NUM_SEQUENCES], 0, 0)
            counts[PHASE] = BEGIN_LAYER
        block_step = counts[STEP] - counts[BLOCK_START]
        place = block_step * num_layers + counts[LAYER]
        chosen = selected[offsets[place] : offsets[place + 1]]
        now_tokens = context[block_step]
        if counts[PHASE] == BEGIN_LAYER:
            if not _has_room(counts, ring):
                return WANTS_ROOM, 0, 0, 0
            _until_decision(
                counts, clock, ring, done, works, tables, carried_s, times, flags, num_pages, free, chosen, now_tokens,
                opened, misses, held,
            )  # fmt: skip
            counts[PHASE] = DECIDING
            if rules[POLICY] == NO_POLICY:
                return WANTS_PLAN, counts[NUM_MISSES], counts[FREE_AFTER], counts[NUM_OPENED]
            for each in range(counts[NUM_OPENED]):
                arrived(counts, free, rules, links, opened[each])
            num_victims, num_prefetches = decide(counts, flags, free, rules, links, chosen, victims, prefetches)
        gone, coming, missing = victims[:num_victims], prefetches[:num_prefetches], misses[: counts[NUM_MISSES]]
        _sort(gone)
        if not is_sound(counts, flags, pages, gone, coming):
            return BAD_PLAN, num_victims, num_prefetches, 0
        count(counts, rows, flags, chosen, missing, gone, coming)
        if not carry_out(counts, flags, free, chosen, missing, held, gone, coming):
            return NO_SLOT, num_victims, num_prefetches, counts[NUM_MISSES]
        _after_decision(
            counts, clock, ring, done, works, tables, carried_s, times, rows, pages, chosen, missing, gone, coming,
            now_tokens,
        )  # fmt: skip
        counts[LAYER] += 1
        counts[PHASE] = BEGIN_LAYER
        if counts[LAYER] == num_layers:
            _end_step(counts, clock, ring, done, works, tables, carried_s, times, rows)
            counts[PHASE] = BEGIN_STEP
        if counts[IS_STUCK]:
            return STUCK, 0, 0, 0


@numba.njit(cache=True)
def _sort(pages):
    """Sort a few page ids in place."""
    if pages.size > 32:
        pages.sort()
        return
    for end in range(1, pages.size):
        page, place = pages[end], end
        while place > 0 and pages[place - 1] > page:
            pages[place] = pages[place - 1]
            place -= 1
        pages[place] = page


@numba.njit(cache=True)
def _has_room(counts, ring):
    """Return whether the rings hold what one more layer may bring, and what a step ago is still asked about.

    A transfer is asked about until the step is over in which it arrived.
    """
    in_layer = 2 + counts[NUM_SEQUENCES] + counts[QUOTA]
    in_flight = counts[NEXT_TRANSFER] - counts[OLDEST_TRANSFER]
    mask = ring.shape[1] - 1
    first = counts[NEXT_AFTER]
    if in_flight:
        first = min(first, ring[AFTER_FIRST, counts[OLDEST_TRANSFER] & mask])
    per_step = counts[NUM_LAYERS] * in_layer
    return in_flight + 2 * per_step <= mask and counts[NEXT_AFTER] - first + 3 * (in_flight + per_step) <= mask


@numba.njit(cache=True)
def _pages_now(counts, tokens):
    """Return the pages of a sequence of `tokens`, the open one included."""
    return -(-tokens // counts[PAGE_TOKENS])


@numba.njit(cache=True)
def _until_decision(
    counts, clock, ring, done, works, tables, carried_s, times, flags, num_pages, free, chosen, now_tokens, opened,
    misses, held,
):  # fmt: skip
    """Launch what comes before the decision, open pages, and find the misses."""
    batch = counts[NUM_SEQUENCES]
    total = 0
    for sequence in range(batch):
        opened[sequence] = _pages_now(counts, now_tokens[sequence])
        total += opened[sequence]
    launch(counts, clock, ring, done, works, tables, carried_s, times, ATTENTION_INPUT, batch, 0, 0)
    if counts[FORETELLS] and counts[LAYER] + 1 < counts[NUM_LAYERS]:
        launch(counts, clock, ring, done, works, tables, carried_s, times, SPECULATE, total, 0, 0)
    if not counts[READS_ALL]:
        scored = launch(counts, clock, ring, done, works, tables, carried_s, times, SELECT, total, 0, 0)
        if counts[WAITS_FOR_SCORES]:
            wait(counts, clock, ring, done, works, tables, carried_s, times, scored)
            spend(counts, clock, times, ROW_SYNC, clock[SYNC_S])
    counts[NUM_OPENED] = open_pages(counts, flags, num_pages, free, opened)
    select(counts, flags, free, chosen, misses, held)


@numba.njit(cache=True)
def _after_decision(
    counts, clock, ring, done, works, tables, carried_s, times, rows, pages, chosen, misses, victims, prefetches,
    now_tokens,
):  # fmt: skip
    """Spend the decision's time, move what it moves, and launch the rest of the layer."""
    if not counts[HOLDS_ALL]:
        place = remember(counts, clock, tables, DECIDE, chosen.size)
        spend(counts, clock, times, ROW_DECIDE, clock[place + 1])
    advance(counts, clock, ring, done, works, tables, carried_s, times, clock[NOW], -1)
    waits_first = counts[NEXT_AFTER]
    num_late = _late(counts, ring, done, rows, pages, chosen)
    after_first = counts[NEXT_AFTER]
    reader, read_s = -1, np.nan
    if victims.size:
        reader, read_s = _reader(counts, clock, works)
        _slots_free(counts, clock, ring, done, works, tables, carried_s, times, pages, victims)
    after_count = counts[NEXT_AFTER] - after_first
    submissions = _force(counts, clock, ring, done, works, tables, carried_s, times, waits_first, num_late)
    demand = -1
    if misses.size:
        demand = make_transfer(counts, ring, done, misses.size, after_first, after_count, reader, read_s)
        spend(counts, clock, times, ROW_SUBMIT, clock[SUBMIT_S])
        submit(counts, clock, ring, done, works, tables, carried_s, times, DEMAND, demand)
    chunk = prefetches.size if counts[ATTENDS_ALL] else counts[CHUNK]
    for start in range(0, prefetches.size, max(1, chunk)):
        size = min(chunk, prefetches.size - start)
        number = make_transfer(counts, ring, done, size, after_first, after_count, reader, read_s)
        for each in range(start, start + size):
            pages[CARRIED_BY, prefetches[each]] = number
        if counts[KEEPS_ORDER]:
            append(counts, ring, HELD, number)
        else:
            submit(counts, clock, ring, done, works, tables, carried_s, times, PREFETCH, number)
            submissions += 1
    submissions += _issue(counts, clock, ring, done, works, tables, carried_s, times)
    if submissions:
        spend(counts, clock, times, ROW_SUBMIT, submissions * clock[SUBMIT_S])
    if not counts[HOLDS_ALL]:
        _write_back(counts, clock, ring, done, works, tables, carried_s, times, rows, pages, now_tokens)
    waits_first = _waits(counts, ring, waits_first, num_late, demand)
    tokens = chosen.size * counts[PAGE_TOKENS]
    for sequence in range(now_tokens.size):
        tokens -= _pages_now(counts, now_tokens[sequence]) * counts[PAGE_TOKENS] - now_tokens[sequence]
    counts[LAST_ATTENTION] = launch(
        counts, clock, ring, done, works, tables, carried_s, times, ATTENTION, tokens, waits_first,
        num_late + (demand >= 0),
    )  # fmt: skip
    batch = counts[NUM_SEQUENCES]
    launch(counts, clock, ring, done, works, tables, carried_s, times, ATTENTION_OUTPUT, batch, 0, 0)


@numba.njit(cache=True)
def _add_carrier(counts, ring, first, number):
    """Enter a transfer in the ascending list that began at `first`, once."""
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


@numba.njit(cache=True)
def _late(counts, ring, done, rows, pages, chosen):
    """List the prefetches that still carry selected pages; return how many, and count the pages."""
    if counts[OLDEST_TRANSFER] == counts[NEXT_TRANSFER]:
        return 0
    first, late = counts[NEXT_AFTER], 0
    for page in chosen:
        number = pages[CARRIED_BY, page]
        if number >= 0 and not has_arrived(counts, done, number):
            late += 1
            _add_carrier(counts, ring, first, number)
    rows[counts[ROW], LATE] += late
    return counts[NEXT_AFTER] - first


@numba.njit(cache=True)
def _reader(counts, clock, works):
    """Return the last attention, which slots must wait for, and when it ends if that is known by now; -1 if it has."""
    number = counts[LAST_ATTENTION]
    if counts[IS_SYNCHRONOUS] or number < 0 or number + works.shape[0] <= counts[NEXT_WORK]:
        return -1, np.nan
    work = works[number & (works.shape[0] - 1)]
    if number >= counts[UNRESOLVED] or clock[NOW] < work[SET_S]:
        return number, np.nan
    if work[END_S] > clock[NOW]:
        return number, clock[NOW] + (work[END_S] - clock[NOW])
    return -1, np.nan


@numba.njit(cache=True)
def _slots_free(counts, clock, ring, done, works, tables, carried_s, times, pages, victims):
    """List what the slots of `victims` must wait for: prefetches that still fill them, and write-backs."""
    first = counts[NEXT_AFTER]
    for page in victims:
        number = pages[CARRIED_BY, page]
        if number >= 0 and not has_arrived(counts, done, number):
            _add_carrier(counts, ring, first, number)
        pages[CARRIED_BY, page] = -1
    _force(counts, clock, ring, done, works, tables, carried_s, times, first, counts[NEXT_AFTER] - first)
    for page in victims:
        number = pages[WRITTEN_BY, page]
        if number >= 0 and not has_arrived(counts, done, number):
            ring[AFTER, counts[NEXT_AFTER] & (ring.shape[1] - 1)] = number
            counts[NEXT_AFTER] += 1


@numba.njit(cache=True)
def _force(counts, clock, ring, done, works, tables, carried_s, times, first, size):
    """Issue those of some transfers that the host holds back, in the order of holding; return how many."""
    issued = place = 0
    while size and place < counts[SIZE + HELD]:
        number = ring[HELD, (counts[HEAD + HELD] + place) & (ring.shape[1] - 1)]
        is_waited = False
        for each in range(size):
            is_waited = is_waited or ring[AFTER, (first + each) & (ring.shape[1] - 1)] == number
        if is_waited:
            remove(counts, ring, HELD, place)
            append(counts, ring, ISSUED, number)
            submit(counts, clock, ring, done, works, tables, carried_s, times, DEMAND, number)
            issued += 1
        else:
            place += 1
    return issued


@numba.njit(cache=True)
def _issue(counts, clock, ring, done, works, tables, carried_s, times):
    """Issue what is held back up to the window; return how many."""
    if not counts[KEEPS_ORDER]:
        return 0
    advance(counts, clock, ring, done, works, tables, carried_s, times, clock[NOW], -1)
    mask = ring.shape[1] - 1
    while counts[SIZE + ISSUED] and has_arrived(counts, done, ring[ISSUED, counts[HEAD + ISSUED] & mask]):
        remove(counts, ring, ISSUED, 0)
    issued = 0
    while counts[SIZE + HELD] and counts[SIZE + ISSUED] < counts[WINDOW]:
        number = remove(counts, ring, HELD, 0)
        append(counts, ring, ISSUED, number)
        submit(counts, clock, ring, done, works, tables, carried_s, times, DEMAND, number)
        issued += 1
    return issued


@numba.njit(cache=True)
def _write_back(counts, clock, ring, done, works, tables, carried_s, times, rows, pages, now_tokens):
    """Copy pages that this step filled to the host, once."""
    for sequence in range(now_tokens.size):
        if now_tokens[sequence] % counts[PAGE_TOKENS]:
            continue
        first = (sequence * counts[NUM_LAYERS] + counts[LAYER]) * counts[PAGES_PER_LAYER]
        number = make_transfer(counts, ring, done, 1, counts[NEXT_AFTER], 0, -1, np.nan)
        pages[WRITTEN_BY, first + now_tokens[sequence] // counts[PAGE_TOKENS] - 1] = number
        spend(counts, clock, times, ROW_SUBMIT, clock[SUBMIT_BACK_S])
        submit(counts, clock, ring, done, works, tables, carried_s, times, BACK, number)
        rows[counts[ROW], TO_HOST_BYTES] += counts[PAGE_BYTES]


@numba.njit(cache=True)
def _waits(counts, ring, first, num_late, demand):
    """Write what attention waits for in a list of its own, late pages first, and return where it begins."""
    if demand < 0:
        return first
    mask = ring.shape[1] - 1
    begin = counts[NEXT_AFTER]
    for each in range(num_late):
        ring[AFTER, (begin + each) & mask] = ring[AFTER, (first + each) & mask]
    ring[AFTER, (begin + num_late) & mask] = demand
    counts[NEXT_AFTER] = begin + num_late + 1
    return begin


@numba.njit(cache=True)
def _end_step(counts, clock, ring, done, works, tables, carried_s, times, rows):
    """Launch the head, wait for it, and close the row."""
    batch = counts[NUM_SEQUENCES]
    head = launch(counts, clock, ring, done, works, tables, carried_s, times, HEAD_SEGMENT, batch, 0, 0)
    wait(counts, clock, ring, done, works, tables, carried_s, times, head)
    times[counts[ROW], ROW_STEP] = clock[NOW] - clock[STEP_BEGAN_S]
    rows[counts[ROW], ROW_DIGEST] = counts[DIGEST]
    clock[STEP_BEGAN_S] = clock[NOW]
    if not counts[IS_SYNCHRONOUS]:
        spend(counts, clock, times, ROW_SYNC, clock[SYNC_S])
    counts[STEP] += 1
    counts[ROW] += 1
