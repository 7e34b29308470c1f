"""The host thread of a compiled run: what it launches, waits for and spends, as `kvsim.sim.simulation` has it."""

from __future__ import annotations

import numba
import numpy as np

from kvsim.kernels.costs import remember
from kvsim.kernels.layout import (
    AFTER,
    ARRIVED_S,
    COMPUTE_SLOWDOWN,
    END_S,
    FIRE_S,
    FREE_S,
    IS_STUCK,
    IS_SYNCHRONOUS,
    NEXT_WORK,
    NOW,
    ROW,
    ROW_HOST,
    ROW_STALL,
    SELECT,
    SET_S,
    SPECULATE,
    UNRESOLVED,
)
from kvsim.kernels.link import advance, busy_s
from kvsim.kernels.stream import first_missing, has_arrived, put


@numba.njit(cache=True)
def spend(counts, clock, times, column, time_s):
    """Let the host work for `time_s`, told in `column` of the step's times."""
    times[counts[ROW], column] += time_s
    if time_s != 0.0:
        clock[NOW] += time_s


@numba.njit(cache=True)
def launch(counts, clock, ring, done, works, tables, carried_s, times, segment, amount, waits_first, waits_count):
    """Launch one segment that waits for some transfers; return the number of its work, -1 where it has ended."""
    place = remember(counts, clock, tables, segment, amount)
    device_s, host_s, tail_s = clock[place + 1], clock[place + 2], clock[place + 3]
    shown = SELECT if segment == SPECULATE else segment
    if counts[IS_SYNCHRONOUS]:
        now_s, ready_s = clock[NOW], max(clock[FREE_S], clock[NOW])
        row = times[counts[ROW]]
        row[ROW_HOST] += ready_s - clock[FREE_S]
        if waits_count:
            _await_copies(counts, clock, ring, done, works, tables, carried_s, times, waits_first, waits_count)
        start_s = clock[NOW]
        row[ROW_STALL] += start_s - ready_s
        _compute(counts, clock, ring, done, works, tables, carried_s, times, device_s)
        row[shown] += clock[NOW] - start_s
        late_s = now_s + host_s + tail_s - clock[NOW]
        if late_s > 0:
            clock[NOW] += late_s
            row[ROW_HOST] += late_s
        clock[FREE_S] = clock[NOW]
        return -1
    if waits_count or counts[UNRESOLVED] < counts[NEXT_WORK]:
        advance(counts, clock, ring, done, works, tables, carried_s, times, clock[NOW], -1)
    number = put(counts, clock, ring, done, works, times, shown, device_s, host_s, tail_s, waits_first, waits_count)
    if host_s != 0.0:
        clock[NOW] += host_s
    return number


@numba.njit(cache=True)
def _await_copies(counts, clock, ring, done, works, tables, carried_s, times, waits_first, waits_count):
    """Let the host, which is the compute stream, wait for transfers."""
    advance(counts, clock, ring, done, works, tables, carried_s, times, clock[NOW], -1)
    for each in range(waits_count):
        number = ring[AFTER, (waits_first + each) & (ring.shape[1] - 1)]
        if not has_arrived(counts, done, number):
            if not advance(counts, clock, ring, done, works, tables, carried_s, times, np.inf, number):
                counts[IS_STUCK] = 1
                return
            clock[NOW] = done[ARRIVED_S, number & (done.shape[1] - 1)]


@numba.njit(cache=True)
def _compute(counts, clock, ring, done, works, tables, carried_s, times, work_s):
    """Pass the time of `work_s`, stretched while a transfer to the device runs (`kvsim.sim.clock.stretched`)."""
    slowdown_frac = clock[COMPUTE_SLOWDOWN]
    if slowdown_frac == 0.0:
        clock[NOW] += work_s
        return
    advance(counts, clock, ring, done, works, tables, carried_s, times, clock[NOW], -1)
    lost_frac = slowdown_frac / (1 + slowdown_frac)
    seen_s = busy_s(clock, 0, clock[NOW])
    missing_s = work_s
    while missing_s > 1e-9 * work_s:
        clock[NOW] += missing_s
        advance(counts, clock, ring, done, works, tables, carried_s, times, clock[NOW], -1)
        other_s = busy_s(clock, 0, clock[NOW])
        missing_s = lost_frac * (other_s - seen_s)
        seen_s = other_s


@numba.njit(cache=True)
def wait(counts, clock, ring, done, works, tables, carried_s, times, number):
    """Let the host wait until a launched work has ended."""
    if counts[IS_SYNCHRONOUS]:
        return
    while number >= counts[UNRESOLVED]:
        missing = first_missing(counts, ring, done, works)
        if not advance(counts, clock, ring, done, works, tables, carried_s, times, np.inf, missing):
            counts[IS_STUCK] = 1
            return
    work = works[number & (works.shape[0] - 1)]
    if clock[NOW] < work[SET_S]:
        clock[NOW] = work[FIRE_S]
    elif work[END_S] > clock[NOW]:
        clock[NOW] += work[END_S] - clock[NOW]
