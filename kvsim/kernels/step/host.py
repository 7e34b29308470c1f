"""The host thread of a compiled run: what it launches, waits for and spends, as `kvsim.sim.simulation` has it."""

from __future__ import annotations

import numpy as np

from kvsim.kernels.arrays import compiled, float_rows, floats, int_rows, ints
from kvsim.kernels.step.costs import remember
from kvsim.kernels.step.layout import (
    AFTER,
    ARRIVED_S,
    CLOCK,
    COMPUTE_SLOWDOWN,
    COUNTS,
    DEMAND,
    DONE,
    END_S,
    FIRE_S,
    FREE_S,
    IS_STUCK,
    IS_SYNCHRONOUS,
    NEXT_WORK,
    NOW,
    PREFETCH,
    RING,
    ROW,
    ROW_HOST,
    ROW_STALL,
    RUNNING,
    SELECT,
    SET_S,
    SIZE,
    SPECULATE,
    TIMES,
    UNRESOLVED,
    WORKS,
)
from kvsim.kernels.step.link import advance, advance_until, busy_s
from kvsim.kernels.step.stream import first_missing, has_arrived, put


@compiled
def spend(run, column, time_s):
    """Let the host work for `time_s`, recorded in `column` of the step's times."""
    if time_s != 0.0:
        counts, clock, times = ints(run, COUNTS), floats(run, CLOCK), float_rows(run, TIMES)
        times[counts[ROW], column] += time_s
        clock[NOW] += time_s


@compiled
def launch(run, segment, amount):
    """Launch one segment that waits for nothing; return the number of its work, -1 where it has ended."""
    return launch_after(run, segment, amount, 0, 0)


@compiled
def launch_after(run, segment, amount, waits_first, waits_count):
    """Launch one segment that waits for some transfers; return the number of its work, -1 where it has ended."""
    counts, clock, times = ints(run, COUNTS), floats(run, CLOCK), float_rows(run, TIMES)
    place = remember(run, segment, amount)
    device_s, host_s, tail_s = clock[place + 1], clock[place + 2], clock[place + 3]
    shown = SELECT if segment == SPECULATE else segment
    if counts[IS_SYNCHRONOUS]:
        row = np.uint64(counts[ROW])
        now_s, ready_s = clock[NOW], max(clock[FREE_S], clock[NOW])
        times[row, ROW_HOST] += ready_s - clock[FREE_S]
        if waits_count:
            _await_copies(run, waits_first, waits_count)
        start_s = clock[NOW]
        times[row, ROW_STALL] += start_s - ready_s
        if clock[COMPUTE_SLOWDOWN] == 0.0:
            clock[NOW] += device_s
        else:
            _compute(run, device_s)
        times[row, shown] += clock[NOW] - start_s
        late_s = now_s + host_s + tail_s - clock[NOW]
        if late_s > 0:
            clock[NOW] += late_s
            times[row, ROW_HOST] += late_s
        clock[FREE_S] = clock[NOW]
        return -1
    if waits_count or counts[UNRESOLVED] < counts[NEXT_WORK]:
        advance(run, clock[NOW])
    number = put(run, shown, device_s, host_s, tail_s, waits_first, waits_count)
    if host_s != 0.0:
        clock[NOW] += host_s
    return number


@compiled
def _await_copies(run, waits_first, waits_count):
    """Let the host, which is the compute stream, wait for transfers."""
    counts, clock, ring, done = ints(run, COUNTS), floats(run, CLOCK), int_rows(run, RING), float_rows(run, DONE)
    advance(run, clock[NOW])
    for each in range(waits_count):
        number = ring[AFTER, (waits_first + each) & (ring.shape[1] - 1)]
        if not has_arrived(counts, done, number):
            if not advance_until(run, number):
                counts[IS_STUCK] = 1
                return
            clock[NOW] = done[number & (done.shape[0] - 1), ARRIVED_S]


@compiled
def _compute(run, work_s):
    """Pass the time of `work_s`, stretched while a transfer to the device runs (`kvsim.sim.clock.stretched`)."""
    counts, clock = ints(run, COUNTS), floats(run, CLOCK)
    slowdown_frac = clock[COMPUTE_SLOWDOWN]
    if counts[RUNNING] < 0 and counts[SIZE + DEMAND] + counts[SIZE + PREFETCH] == 0:
        clock[NOW] += work_s
        return
    advance(run, clock[NOW])
    lost_frac = slowdown_frac / (1 + slowdown_frac)
    seen_s = busy_s(clock, 0, clock[NOW])
    missing_s = work_s
    while missing_s > 1e-9 * work_s:
        clock[NOW] += missing_s
        advance(run, clock[NOW])
        other_s = busy_s(clock, 0, clock[NOW])
        missing_s = lost_frac * (other_s - seen_s)
        seen_s = other_s


@compiled
def wait(run, number):
    """Let the host wait until a launched work has ended."""
    counts, clock, works = ints(run, COUNTS), floats(run, CLOCK), float_rows(run, WORKS)
    if counts[IS_SYNCHRONOUS]:
        return
    while number >= counts[UNRESOLVED]:
        if not advance_until(run, first_missing(run)):
            counts[IS_STUCK] = 1
            return
    work = works[number & (works.shape[0] - 1)]
    if clock[NOW] < work[SET_S]:
        clock[NOW] = work[FIRE_S]
    elif work[END_S] > clock[NOW]:
        clock[NOW] += work[END_S] - clock[NOW]
