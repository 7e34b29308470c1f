"""The copy engines of a compiled run: `kvsim.sim.copies` event by event, moved on only when somebody asks.

Each direction has one time at which it looks up next: the end of what it carries, or when something that it may carry
could have become ready. `advance` goes through those times in order. All sums are those of the SimPy processes.
"""

from __future__ import annotations

import numpy as np

from kvsim.kernels.arrays import compiled, float_rows, floats, int_rows, ints
from kvsim.kernels.step.costs import transfer_s
from kvsim.kernels.step.layout import (
    AFTER,
    AFTER_COUNT,
    AFTER_FIRST,
    ARRIVED_S,
    BACK,
    CLOCK,
    COUNTS,
    DEMAND,
    DONE,
    ENGINE_SIZE,
    HEAD,
    IS_SYNCHRONOUS,
    KEEPS_ORDER,
    LOOK_S,
    MISSING_S,
    NEXT_TRANSFER,
    NOW,
    NUM_IN,
    OLDEST_TRANSFER,
    PREFETCH,
    READ_S,
    READER,
    RING,
    RUNNING,
    SEEN_S,
    SINCE_S,
    SIZE,
    SLOWDOWN,
    TOTAL_S,
    TRANSFERS,
    WORK_S,
)
from kvsim.kernels.step.stream import end_known_s, has_arrived, resolve


@compiled
def busy_s(clock, direction, now_s):
    """Return how long a direction was busy up to `now_s`."""
    base = direction * ENGINE_SIZE
    since_s = clock[base + SINCE_S]
    running_s = 0.0 if np.isnan(since_s) else now_s - since_s
    return clock[base + TOTAL_S] + running_s


@compiled
def append(run, queue, number):
    """Put a transfer behind the others of a queue."""
    counts, ring = ints(run, COUNTS), int_rows(run, RING)
    ring[queue, (counts[HEAD + queue] + counts[SIZE + queue]) & (ring.shape[1] - 1)] = number
    counts[SIZE + queue] += 1


@compiled
def remove(run, queue, place):
    """Take the transfer at `place` out of a queue."""
    counts, ring = ints(run, COUNTS), int_rows(run, RING)
    mask = ring.shape[1] - 1
    head = counts[HEAD + queue]
    number = ring[queue, (head + place) & mask]
    for each in range(place, 0, -1):
        ring[queue, (head + each) & mask] = ring[queue, (head + each - 1) & mask]
    counts[SIZE + queue] -= 1
    counts[HEAD + queue] = (head + 1) & mask if counts[SIZE + queue] else 0
    return number


@compiled
def make_transfer(run, num_pages, after_first, after_count, reader, read_s):
    """Return the number of a new transfer that is not queued yet."""
    counts, transfers, done = ints(run, COUNTS), int_rows(run, TRANSFERS), float_rows(run, DONE)
    number = counts[NEXT_TRANSFER]
    counts[NEXT_TRANSFER] = number + 1
    slot = number & (done.shape[0] - 1)
    transfers[slot, NUM_IN] = num_pages
    transfers[slot, AFTER_FIRST] = after_first
    transfers[slot, AFTER_COUNT] = after_count
    transfers[slot, READER] = reader
    done[slot, ARRIVED_S] = np.inf
    done[slot, READ_S] = read_s
    return number


@compiled
def ready_s(run, number, now_s, just):
    """Return when a transfer may start, as far as that is known (else infinity), and whether that is now.

    What arrived at this very moment (`just`) is known to its waiters only a moment later, at the same time.
    """
    transfers = int_rows(run, TRANSFERS)
    transfer = transfers[number & (transfers.shape[0] - 1)]
    if transfer[AFTER_COUNT] == 0 and transfer[READER] < 0:
        return now_s, True
    counts, ring, done = ints(run, COUNTS), int_rows(run, RING), float_rows(run, DONE)
    at, is_ready = now_s, True
    if transfer[READER] >= 0:
        read_s = done[number & (done.shape[0] - 1), READ_S]
        if np.isnan(read_s):
            read_s = end_known_s(run, transfer[READER])
        if read_s > now_s:
            is_ready = False
            at = read_s
    for each in range(transfer[AFTER_COUNT]):
        other = ring[AFTER, (transfer[AFTER_FIRST] + each) & (ring.shape[1] - 1)]
        if other == just:
            is_ready = False
        elif not has_arrived(counts, done, other):
            return np.inf, False
    return at, is_ready


@compiled
def look(run, direction, now_s, just):
    """Let an idle engine take what it may carry first, demand before prefetch, or see when to look again."""
    counts, clock = ints(run, COUNTS), floats(run, CLOCK)
    ring, transfers = int_rows(run, RING), int_rows(run, TRANSFERS)
    base = direction * ENGINE_SIZE
    again_s = np.inf
    for queue in range(DEMAND, BACK) if direction == 0 else range(BACK, BACK + 1):
        for place in range(counts[SIZE + queue]):
            number = ring[queue, (counts[HEAD + queue] + place) & (ring.shape[1] - 1)]
            at, is_ready = ready_s(run, number, now_s, just)
            if is_ready:
                remove(run, queue, place)
                num_pages = transfers[number & (transfers.shape[0] - 1), NUM_IN]
                work_s = transfer_s(run, direction, num_pages)
                counts[RUNNING + direction] = number
                clock[base + SINCE_S] = now_s
                clock[base + WORK_S] = clock[base + MISSING_S] = work_s
                clock[base + LOOK_S] = now_s + work_s
                if clock[base + SLOWDOWN] != 0.0:
                    clock[base + SEEN_S] = busy_s(clock, 1 - direction, now_s)
                return
            again_s = min(again_s, at)
            if counts[KEEPS_ORDER]:
                break
        if counts[KEEPS_ORDER] and counts[SIZE + queue]:
            break
    clock[base + LOOK_S] = again_s


@compiled
def is_still_busy(clock, direction, now_s):
    """Return whether interference left work to do where an idle machine would have arrived, and see for how long."""
    base = direction * ENGINE_SIZE
    slowdown_frac = clock[base + SLOWDOWN]
    if slowdown_frac == 0.0:
        return False
    other_s = busy_s(clock, 1 - direction, now_s)
    missing_s = slowdown_frac / (1 + slowdown_frac) * (other_s - clock[base + SEEN_S])
    clock[base + SEEN_S] = other_s
    clock[base + LOOK_S] = now_s + missing_s
    return missing_s > 1e-9 * clock[base + WORK_S]


@compiled
def finish(run, direction, now_s):
    """Let what an engine carries arrive."""
    counts, clock, done = ints(run, COUNTS), floats(run, CLOCK), float_rows(run, DONE)
    base = direction * ENGINE_SIZE
    number = counts[RUNNING + direction]
    clock[base + TOTAL_S] += now_s - clock[base + SINCE_S]
    clock[base + SINCE_S] = np.nan
    clock[base + LOOK_S] = np.inf
    counts[RUNNING + direction] = -1
    mask = done.shape[0] - 1
    done[number & mask, ARRIVED_S] = now_s
    while counts[OLDEST_TRANSFER] < counts[NEXT_TRANSFER] and done[counts[OLDEST_TRANSFER] & mask, ARRIVED_S] < np.inf:
        counts[OLDEST_TRANSFER] += 1
    if not counts[IS_SYNCHRONOUS]:
        resolve(run)
    if direction == 1 and counts[RUNNING] < 0 and counts[SIZE + DEMAND] + counts[SIZE + PREFETCH] > 0:
        clock[LOOK_S] = min(clock[LOOK_S], now_s)
    return number


@compiled
def advance(run, limit_s):
    """Move both engines on up to `limit_s`."""
    clock = floats(run, CLOCK)
    if clock[LOOK_S] <= limit_s or clock[LOOK_S + ENGINE_SIZE] <= limit_s:
        _advance(run, limit_s, -1)


@compiled
def advance_until(run, number):
    """Move both engines on until a transfer has arrived; return False if it never will."""
    return _advance(run, np.inf, number)


@compiled
def _advance(run, limit_s, until):
    counts, clock, done = ints(run, COUNTS), floats(run, CLOCK), float_rows(run, DONE)
    while until < 0 or not has_arrived(counts, done, until):
        direction = 0 if clock[LOOK_S] <= clock[LOOK_S + ENGINE_SIZE] else 1
        now_s = clock[direction * ENGINE_SIZE + LOOK_S]
        if now_s > limit_s or now_s == np.inf:
            return until < 0
        just = -1
        if counts[RUNNING + direction] >= 0:
            if is_still_busy(clock, direction, now_s):
                continue
            just = finish(run, direction, now_s)
        if counts[SIZE + BACK] if direction == 1 else counts[SIZE + DEMAND] + counts[SIZE + PREFETCH]:
            look(run, direction, now_s, just)
        else:
            clock[direction * ENGINE_SIZE + LOOK_S] = np.inf
    return True


@compiled
def submit(run, queue, number):
    """Queue a transfer now, once the engines have moved on to now, and wake its engine."""
    counts, clock = ints(run, COUNTS), floats(run, CLOCK)
    advance(run, clock[NOW])
    append(run, queue, number)
    direction = 1 if queue == BACK else 0
    if counts[RUNNING + direction] < 0:
        place = direction * ENGINE_SIZE + LOOK_S
        clock[place] = min(clock[place], clock[NOW])
