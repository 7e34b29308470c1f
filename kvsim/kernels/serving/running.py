"""Running requests get their tokens, and preempt others where blocks are short."""

from __future__ import annotations

from kvsim.kernels.arrays import compiled, int_rows, ints
from kvsim.kernels.serving.layout import (
    ARRIVAL,
    BY_PRIORITY,
    COMPUTED,
    COUNTS,
    IN_FLIGHT,
    LIMIT,
    LISTS,
    MAX_TOKENS,
    MODEL_TOKENS,
    NEXT_STEP,
    NONE,
    NUM_RUNNING,
    NUM_SECTIONS,
    NUMBERS,
    PLACEHOLDERS,
    PLANNED,
    PREEMPTED,
    PREEMPTIONS,
    PRIORITY,
    REQUESTS,
    RUNNING,
    SCHEDULED,
    SLOT,
    SLOTS,
    STALE,
    STEPS,
    TOKENS,
)
from kvsim.kernels.serving.queues import push
from kvsim.kernels.serving.tables import extend, release


@compiled
def schedule_running(core, limit):
    """Give running requests their tokens, `limit` each at most; return what is left of the budget."""
    numbers, requests, running = ints(core, NUMBERS), int_rows(core, REQUESTS), int_rows(core, LISTS)[RUNNING]
    tokens_left, place = numbers[MAX_TOKENS], 0
    while place < numbers[NUM_RUNNING] and tokens_left > 0:
        request = running[place]
        tokens = min(_tokens_to_compute(core, request), limit, tokens_left)
        if tokens <= 0:
            place += 1
            continue
        while not extend(core, request, requests[request, COMPUTED] + tokens, requests[request, TOKENS]):
            victim_place = _victim_place(core)
            victim = running[victim_place]
            _preempt(core, victim_place)
            tokens_left += _drop(core, victim)
            place -= victim_place < place
            if victim == request:
                return tokens_left
        plan(core, request, tokens)
        tokens_left -= tokens
        place += 1
    return tokens_left


@compiled
def _tokens_to_compute(core, request):
    """Return how many tokens wait for computation, 0 if the request is about to reach one of its limits."""
    row = int_rows(core, REQUESTS)[request]
    if row[PLACEHOLDERS] > 0 and row[COMPUTED] + 2 - row[PLACEHOLDERS] >= row[LIMIT]:
        return 0
    return min(row[TOKENS] + row[PLACEHOLDERS], ints(core, NUMBERS)[MODEL_TOKENS] - 1) - row[COMPUTED]


@compiled
def plan(core, request, tokens):
    """Put a request into the batch."""
    step = ints(core, NUMBERS)[NEXT_STEP]
    append(core, step, SCHEDULED, request)
    int_rows(core, REQUESTS)[request, PLANNED] = tokens


@compiled
def append(core, step, section, value):
    """Write a value behind the others of a section of a step."""
    counts = int_rows(core, COUNTS)
    int_rows(core, STEPS)[step * NUM_SECTIONS + section, counts[step, section]] = value
    counts[step, section] += 1


@compiled
def _drop(core, request):
    """Take a request out of the batch; return the tokens that were planned for it, 0 if there were none."""
    requests, counts, step = int_rows(core, REQUESTS), int_rows(core, COUNTS), ints(core, NUMBERS)[NEXT_STEP]
    batch = int_rows(core, STEPS)[step * NUM_SECTIONS + SCHEDULED]
    tokens, place = requests[request, PLANNED], 0
    if tokens > 0:
        requests[request, PLANNED] = 0
        while batch[place] != request:
            place += 1
        counts[step, SCHEDULED] -= 1
        for behind in range(place, counts[step, SCHEDULED]):
            batch[behind] = batch[behind + 1]
    return tokens


@compiled
def _victim_place(core):
    """Return who is preempted: the last admitted, or the first of those with the highest (priority, arrival)."""
    numbers, requests, running = ints(core, NUMBERS), int_rows(core, REQUESTS), int_rows(core, LISTS)[RUNNING]
    if not numbers[BY_PRIORITY]:
        return numbers[NUM_RUNNING] - 1
    highest = 0
    for place in range(1, numbers[NUM_RUNNING]):
        one, other = requests[running[place]], requests[running[highest]]
        is_higher = one[PRIORITY] > other[PRIORITY]
        if is_higher or (one[PRIORITY] == other[PRIORITY] and one[ARRIVAL] > other[ARRIVAL]):
            highest = place
    return highest


@compiled
def _preempt(core, place):
    """Stop the request at a place of the running ones: it loses its blocks and waits again."""
    numbers, running = ints(core, NUMBERS), int_rows(core, LISTS)[RUNNING]
    victim = running[place]
    row = int_rows(core, REQUESTS)[victim]
    release(core, victim)
    for behind in range(place, numbers[NUM_RUNNING] - 1):
        running[behind] = running[behind + 1]
    free_slot(core, victim)
    row[COMPUTED] = row[PLACEHOLDERS] = 0
    row[STALE] = row[IN_FLIGHT]
    row[PREEMPTIONS] += 1
    push(core, victim, True)
    append(core, numbers[NEXT_STEP], PREEMPTED, victim)


@compiled
def free_slot(core, request):
    """Count one running request less, and give its line of the block tables to the next one."""
    numbers, row = ints(core, NUMBERS), int_rows(core, REQUESTS)[request]
    numbers[NUM_RUNNING] -= 1
    int_rows(core, LISTS)[SLOTS, numbers[NUM_RUNNING]] = row[SLOT]
    row[SLOT] = NONE
