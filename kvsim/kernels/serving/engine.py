"""An engine's loop: steps scheduled, run and taken in, up to the next event that it does not know of.

The moments are those of `kvsim.sim.serving.engine.Engine`, sum by sum. A wait that ends before anything else happens is
passed at once; `run` returns where one does not, where requests are done, and where there is nothing to do.

==========  ==============  ===========================================================================================
`NUMBERS`   whole numbers   whether steps are scheduled one ahead, where the loop is, and what it knows of its steps
`TIMES`     floats          the time now, how long to wait from then on, and when the steps in flight end
==========  ==============  ===========================================================================================
"""

from __future__ import annotations

from kvsim.kernels.arrays import compiled, floats, int_rows, ints
from kvsim.kernels.serving import layout as of_core
from kvsim.kernels.serving.costs import step_s
from kvsim.kernels.serving.monitor import note_step
from kvsim.kernels.serving.record import admitted, delivered, preempted
from kvsim.kernels.serving.step import schedule, update

(NUMBERS, TIMES) = range(2)
NUM_ARRAYS = 2

(IS_ASYNC, PHASE, HAS_WORK, HAD_WORK, NUM_PREEMPTED, NUM_IN_FLIGHT) = range(6)
FLIGHTS_WORK = 6
"""Whether each of the two steps in flight does anything, the older one first."""
(STEP, NUM_FINISHED) = range(8, 10)
"""The step that ended last, and the requests that it finished."""
NUM_NUMBERS = 10

(NOW_S, WAIT_S, FORWARD_S, DEVICE_FREE_S) = range(4)
FLIGHTS_END_S = 4
NUM_TIMES = 6

(BEGIN, HOST, QUEUED, END, AFTER) = range(5)
"""Phases: a step is to be scheduled; the host has worked for one; one is in flight; one has ended; all is taken in."""

(GOES_ON, WAITS, FINISHED, IS_IDLE, IS_EMPTY, RAN_EMPTY, IS_STUCK) = range(7)
"""What a phase ends in: the next one; a wait; requests that are done; all are; nothing to do after a step without work,
or after one with some; requests that nothing will ever run."""


@compiled
def run(engine, core, costs, record, monitor, now_s, until_s):
    """Go on from `now_s` and return what came first; ``TIMES[NOW_S]`` is when, and ``TIMES[WAIT_S]`` a wait from then.

    Whoever has a clock of their own passes the time to ``TIMES[NOW_S]`` in one sum; while that is at most twice as late
    the sum is exact, so `run` goes no further.
    """
    times = floats(engine, TIMES)
    times[NOW_S] = now_s
    until_s = min(until_s, 2.0 * now_s)
    while True:
        came = _phase(engine, core, costs, record, monitor)
        if came == WAITS:
            then_s = times[NOW_S] + times[WAIT_S]
            if then_s >= until_s:
                return WAITS
            times[NOW_S] = then_s
        elif came != GOES_ON:
            return came


@compiled
def _phase(engine, core, costs, record, monitor):
    numbers, times = ints(engine, NUMBERS), floats(engine, TIMES)
    phase = numbers[PHASE]
    if phase == BEGIN:
        if _is_done(core):
            numbers[HAS_WORK] = 1  # no pause after the steps that are left
            return _wait_for_oldest(engine) if numbers[NUM_IN_FLIGHT] else IS_IDLE
        return _begin(engine, core, costs, record, monitor)
    if phase == HOST:
        times[DEVICE_FREE_S] = max(times[DEVICE_FREE_S], times[NOW_S]) + times[FORWARD_S]
        numbers[PHASE] = QUEUED
        return GOES_ON
    if phase == QUEUED:
        return _queue(engine)
    if phase == END:
        numbers[STEP], num_sampled, numbers[NUM_FINISHED] = update(core)
        sampled = int_rows(core, of_core.STEPS)[numbers[STEP] * of_core.NUM_SECTIONS + of_core.SAMPLED, :num_sampled]
        delivered(record, sampled, times[NOW_S])
        numbers[PHASE] = AFTER
        return FINISHED if numbers[NUM_FINISHED] else GOES_ON
    numbers[PHASE] = BEGIN
    if not numbers[IS_ASYNC] or numbers[HAS_WORK] or _is_done(core):
        return GOES_ON
    return RAN_EMPTY if numbers[HAD_WORK] else IS_EMPTY


@compiled
def _begin(engine, core, costs, record, monitor):
    """Schedule a step and write down what it decided."""
    numbers, times = ints(engine, NUMBERS), floats(engine, TIMES)
    of, now_s = ints(core, of_core.NUMBERS), times[NOW_S]
    step, num_admitted, num_preempted, requests, tokens, sampled, context, pairs, prefill_tokens = schedule(core)
    sections, first = int_rows(core, of_core.STEPS), step * of_core.NUM_SECTIONS
    for place in range(num_admitted):
        request = sections[first + of_core.ADMITTED, place]
        admitted(record, request, sections[first + of_core.HIT_TOKENS, place], now_s)
    for place in range(num_preempted):
        preempted(record, sections[first + of_core.PREEMPTED, place])
    running, waiting, free_blocks = of[of_core.NUM_RUNNING], of[of_core.NUM_WAITING], of[of_core.NUM_FREE]
    note_step(monitor, now_s, requests, tokens, prefill_tokens, running, waiting, free_blocks)
    numbers[NUM_PREEMPTED], numbers[HAS_WORK] = num_preempted, requests > 0
    numbers[PHASE] = QUEUED if numbers[IS_ASYNC] else END
    if requests == 0:
        return GOES_ON if numbers[IS_ASYNC] else _nothing_runs(numbers)
    times[WAIT_S], times[FORWARD_S] = step_s(costs, requests, tokens, sampled, context, pairs)
    if numbers[IS_ASYNC]:
        numbers[PHASE] = HOST
    else:
        times[WAIT_S] += times[FORWARD_S]
    return WAITS


@compiled
def _queue(engine):
    """Put the step into flight; with two of them, wait for the older one."""
    numbers, times = ints(engine, NUMBERS), floats(engine, TIMES)
    newest = numbers[NUM_IN_FLIGHT]
    numbers[FLIGHTS_WORK + newest], times[FLIGHTS_END_S + newest] = numbers[HAS_WORK], times[DEVICE_FREE_S]
    numbers[NUM_IN_FLIGHT] += 1
    if numbers[HAS_WORK] and newest == 0:
        numbers[PHASE] = BEGIN
        return GOES_ON
    if not (numbers[HAS_WORK] or numbers[FLIGHTS_WORK]) and _nothing_runs(numbers) == IS_STUCK:
        return IS_STUCK
    return _wait_for_oldest(engine)


@compiled
def _wait_for_oldest(engine):
    numbers, times = ints(engine, NUMBERS), floats(engine, TIMES)
    end_s, numbers[HAD_WORK] = times[FLIGHTS_END_S], numbers[FLIGHTS_WORK]
    numbers[FLIGHTS_WORK], times[FLIGHTS_END_S] = numbers[FLIGHTS_WORK + 1], times[FLIGHTS_END_S + 1]
    numbers[NUM_IN_FLIGHT] -= 1
    numbers[PHASE] = END
    times[WAIT_S] = end_s - times[NOW_S]
    return WAITS if times[WAIT_S] > 0 else GOES_ON


@compiled
def _nothing_runs(numbers):
    """Return what a step without work means: another one may have some after a preemption, and never without."""
    return IS_EMPTY if numbers[NUM_PREEMPTED] else IS_STUCK


@compiled
def _is_done(core):
    numbers = ints(core, of_core.NUMBERS)
    return numbers[of_core.NUM_RUNNING] + numbers[of_core.NUM_WAITING] == 0
