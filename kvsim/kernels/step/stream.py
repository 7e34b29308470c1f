"""The compute stream of a compiled run on a machine whose host runs ahead: `kvsim.sim.compute`, work by work.

Work is resolved, in order, as soon as what it waits for has arrived: then its end is known, and where its time went.
"""

from __future__ import annotations

import numpy as np

from kvsim.kernels.arrays import compiled, float_rows, floats, int_rows, ints
from kvsim.kernels.step.layout import (
    AFTER,
    ARRIVED_S,
    CLOCK,
    COUNTS,
    DEVICE_S,
    DONE,
    END_S,
    FIRE_S,
    FREE_S,
    HOST_END_S,
    LAUNCH_S,
    NEXT_WORK,
    NOW,
    OLDEST_TRANSFER,
    RING,
    ROW,
    ROW_HOST,
    ROW_STALL,
    SEGMENT,
    SERVED_S,
    SET_S,
    TAIL_S,
    TIMES,
    UNRESOLVED,
    WAITS_COUNT,
    WAITS_FIRST,
    WORKS,
)


@compiled
def has_arrived(counts, done, number):
    """Return whether a transfer arrived, as far as the engines have moved on."""
    return number < counts[OLDEST_TRANSFER] or done[number & (done.shape[0] - 1), ARRIVED_S] < np.inf


@compiled
def end_known_s(run, number):
    """Return when the end of a work becomes known to who waits for it; infinity where that is not known yet."""
    counts, works = ints(run, COUNTS), float_rows(run, WORKS)
    if number >= counts[UNRESOLVED]:
        return np.inf
    if number + works.shape[0] < counts[NEXT_WORK]:
        return -np.inf
    return works[number & (works.shape[0] - 1), FIRE_S]


@compiled
def put(run, segment, device_s, host_s, tail_s, waits_first, waits_count):
    """Queue one segment behind the others and return its number.

    The stream is served by nobody while it is idle; then what comes is seen at once, else when the work before ends.
    """
    counts, clock, works = ints(run, COUNTS), floats(run, CLOCK), float_rows(run, WORKS)
    number = counts[NEXT_WORK]
    now_s = clock[NOW]
    if counts[UNRESOLVED] == number and now_s >= clock[SERVED_S]:
        clock[SERVED_S] = now_s
    counts[NEXT_WORK] = number + 1
    work = works[number & (works.shape[0] - 1)]
    work[SEGMENT] = segment
    work[LAUNCH_S] = now_s
    work[DEVICE_S] = device_s
    work[HOST_END_S] = now_s + host_s
    work[TAIL_S] = tail_s
    work[WAITS_FIRST] = waits_first
    work[WAITS_COUNT] = waits_count
    resolve(run)
    return number


@compiled
def first_missing(run):
    """Return the first transfer that the oldest unresolved work waits for and that has not arrived, or -1."""
    counts, works = ints(run, COUNTS), float_rows(run, WORKS)
    ring, done = int_rows(run, RING), float_rows(run, DONE)
    work = works[counts[UNRESOLVED] & (works.shape[0] - 1)]
    for each in range(int(work[WAITS_COUNT])):
        number = ring[AFTER, (int(work[WAITS_FIRST]) + each) & (ring.shape[1] - 1)]
        if not has_arrived(counts, done, number):
            return number
    return -1


@compiled
def resolve(run):
    """Account for all work whose copies have arrived, oldest first."""
    counts, clock, ring = ints(run, COUNTS), floats(run, CLOCK), int_rows(run, RING)
    done, works, times = float_rows(run, DONE), float_rows(run, WORKS), float_rows(run, TIMES)
    while counts[UNRESOLVED] < counts[NEXT_WORK]:
        if first_missing(run) >= 0:
            return
        work = works[counts[UNRESOLVED] & (works.shape[0] - 1)]
        copies_s = -np.inf
        for each in range(int(work[WAITS_COUNT])):
            number = ring[AFTER, (int(work[WAITS_FIRST]) + each) & (ring.shape[1] - 1)]
            copies_s = max(copies_s, done[number & (done.shape[0] - 1), ARRIVED_S])
        row = times[counts[ROW]]
        if copies_s <= clock[SERVED_S]:
            _end_at_once(clock, work, row)
        else:
            _execute(clock, work, row, copies_s)
        counts[UNRESOLVED] += 1


@compiled
def _end_at_once(clock, work, row):
    seen_s, free_s = clock[SERVED_S], clock[FREE_S]
    ready_s = max(free_s, work[LAUNCH_S])
    row[ROW_HOST] += ready_s - free_s
    busy_s = ready_s + work[DEVICE_S]
    row[int(work[SEGMENT])] += work[DEVICE_S]
    end_s = max(busy_s, work[HOST_END_S] + work[TAIL_S])
    row[ROW_HOST] += end_s - busy_s
    work[END_S], work[SET_S] = end_s, seen_s
    work[FIRE_S] = seen_s if end_s <= seen_s else seen_s + (end_s - seen_s)
    clock[FREE_S] = end_s


@compiled
def _execute(clock, work, row, copies_s):
    now_s, free_s = clock[SERVED_S], clock[FREE_S]
    ready_s = max(free_s, work[LAUNCH_S])
    if now_s < ready_s:
        now_s += ready_s - now_s
    row[ROW_HOST] += ready_s - free_s
    start_s = now_s = max(now_s, copies_s)
    row[ROW_STALL] += start_s - ready_s
    now_s += work[DEVICE_S]
    row[int(work[SEGMENT])] += now_s - start_s
    late_s = work[HOST_END_S] + work[TAIL_S] - now_s
    if late_s > 0:
        now_s += late_s
        row[ROW_HOST] += late_s
    work[END_S] = work[SET_S] = work[FIRE_S] = now_s
    clock[SERVED_S] = clock[FREE_S] = now_s
