"""How many requests run and wait and how full the cache is: integrals over time, counts, and samples of both.

==========  ==============================  ==========================================================================
`NUMBERS`   whole numbers                   the state since the last event, peaks, counts, and when to sample next
`TIMES`     floats                          the time of the last event, and the integrals up to then
`SAMPLES`   floats, ``[MOST + 1, WIDTH]``   times and counts so far; every other line goes when all of them are taken
==========  ==============================  ==========================================================================
"""

from __future__ import annotations

from kvsim.kernels.arrays import compiled, float_rows, floats, ints

(NUMBERS, TIMES, SAMPLES) = range(3)
NUM_ARRAYS = 3

(NUM_BLOCKS, RUNNING, WAITING, FREE_BLOCKS, PEAK_RUNNING, PEAK_WAITING, PEAK_USED) = range(7)
(TOKENS, PREFILL_TOKENS, NUM_STEPS, STRIDE, UNTIL_SAMPLE, NUM_SAMPLES) = range(7, 13)
NUM_NUMBERS = 13

(TIME_S, RUNNING_S, WAITING_S, USED_S) = range(4)
NUM_TIMES = 4
WIDTH = 7
"""Columns of a sample: `TIMES`, then `TOKENS`, `PREFILL_TOKENS` and `NUM_STEPS`."""


@compiled
def note_arrival(monitor, now_s):
    """Note that one more request waits."""
    pass_time(monitor, now_s)
    numbers = ints(monitor, NUMBERS)
    numbers[WAITING] += 1
    numbers[PEAK_WAITING] = max(numbers[PEAK_WAITING], numbers[WAITING])


@compiled
def note_step(monitor, now_s, requests, tokens, prefill_tokens, running, waiting, free_blocks):
    """Note a step as it begins."""
    pass_time(monitor, now_s)
    numbers = ints(monitor, NUMBERS)
    numbers[RUNNING], numbers[WAITING], numbers[FREE_BLOCKS] = running, waiting, free_blocks
    numbers[PEAK_RUNNING] = max(numbers[PEAK_RUNNING], running)
    numbers[PEAK_USED] = max(numbers[PEAK_USED], numbers[NUM_BLOCKS] - free_blocks)
    if requests > 0:
        numbers[NUM_STEPS] += 1
        numbers[TOKENS] += tokens
        numbers[PREFILL_TOKENS] += prefill_tokens
    numbers[UNTIL_SAMPLE] -= 1
    if numbers[UNTIL_SAMPLE] == 0:
        _sample(monitor)


@compiled
def note_idle(monitor, now_s, free_blocks):
    """Note that nothing runs or waits from now on."""
    pass_time(monitor, now_s)
    numbers = ints(monitor, NUMBERS)
    numbers[RUNNING] = numbers[WAITING] = 0
    numbers[FREE_BLOCKS] = free_blocks


@compiled
def pass_time(monitor, now_s):
    """Add the time since the last event to the integrals."""
    numbers, times = ints(monitor, NUMBERS), floats(monitor, TIMES)
    elapsed_s = now_s - times[TIME_S]
    if elapsed_s > 0:
        times[RUNNING_S] += elapsed_s * numbers[RUNNING]
        times[WAITING_S] += elapsed_s * numbers[WAITING]
        times[USED_S] += elapsed_s * (numbers[NUM_BLOCKS] - numbers[FREE_BLOCKS])
        times[TIME_S] = now_s


@compiled
def write_state(monitor, line):
    """Write the present state as a line of `SAMPLES`."""
    numbers, times, row = ints(monitor, NUMBERS), floats(monitor, TIMES), float_rows(monitor, SAMPLES)[line]
    for place in range(NUM_TIMES):
        row[place] = times[place]
    row[NUM_TIMES], row[NUM_TIMES + 1], row[NUM_TIMES + 2] = (
        numbers[TOKENS],
        numbers[PREFILL_TOKENS],
        numbers[NUM_STEPS],
    )


@compiled
def _sample(monitor):
    numbers, samples = ints(monitor, NUMBERS), float_rows(monitor, SAMPLES)
    write_state(monitor, numbers[NUM_SAMPLES])
    numbers[NUM_SAMPLES] += 1
    if numbers[NUM_SAMPLES] == samples.shape[0]:
        numbers[NUM_SAMPLES] = (numbers[NUM_SAMPLES] + 1) // 2
        for line in range(numbers[NUM_SAMPLES]):
            for column in range(WIDTH):
                samples[line, column] = samples[2 * line, column]
        numbers[STRIDE] *= 2
    numbers[UNTIL_SAMPLE] = numbers[STRIDE]
