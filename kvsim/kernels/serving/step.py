"""The calls of a compiled core: arrival, schedule and update; the plain twin is `policies.schedulers.PlainCore`."""

from __future__ import annotations

from kvsim.kernels.arrays import compiled, int_rows, ints
from kvsim.kernels.serving.layout import (
    ADAPTIVE,
    ADMITTED,
    COMPUTED,
    COUNTS,
    FINISHED,
    IN_FLIGHT,
    IS_ASYNC,
    IS_FINISHED,
    LISTS,
    MAX_TOKENS,
    NEXT_STEP,
    NONE,
    NUM_RUNNING,
    NUM_SECTIONS,
    NUM_WAITING,
    NUMBERS,
    OLDEST_STEP,
    PLACEHOLDERS,
    PLANNED,
    PREEMPTED,
    PREFILL_TOKENS,
    REQUESTS,
    RUNNING,
    SAMPLED,
    SAMPLES,
    SCHEDULED,
    SCHEDULED_TOKENS,
    SLOT,
    STALE,
    STEPS,
    STOP,
    TOKENS,
    WORK_CONTEXT,
    WORK_PAIRS,
    WORK_PREFILL,
    WORK_SAMPLED,
    WORK_TOKENS,
)
from kvsim.kernels.serving.queues import push, remove
from kvsim.kernels.serving.running import append, free_slot, schedule_running
from kvsim.kernels.serving.tables import cache, release
from kvsim.kernels.serving.waiting import schedule_waiting


@compiled
def arrive(core, request):
    """Let a request arrive."""
    push(core, request, False)


@compiled
def schedule(core):
    """Decide the next step; return its number of three, its admissions and preemptions, and its work."""
    numbers, counts = ints(core, NUMBERS), int_rows(core, COUNTS)
    step, limit = numbers[NEXT_STEP], _prefill_limit(core)
    tokens_left = schedule_running(core, limit)
    if counts[step, PREEMPTED] == 0:
        schedule_waiting(core, limit, tokens_left)
    _begin(core, step)
    numbers[NEXT_STEP] = (step + 1) % 3
    counts[numbers[NEXT_STEP]] = 0
    row = counts[step]
    return (
        step,
        row[ADMITTED],
        row[PREEMPTED],
        row[SCHEDULED],
        row[WORK_TOKENS],
        row[WORK_SAMPLED],
        row[WORK_CONTEXT],
        row[WORK_PAIRS],
        row[WORK_PREFILL],
    )


@compiled
def _prefill_limit(core):
    """Return the most tokens that one request gets in this step."""
    numbers = ints(core, NUMBERS)
    num_requests = numbers[NUM_RUNNING] + numbers[NUM_WAITING]
    if numbers[PREFILL_TOKENS] == 0 or num_requests <= 1:
        return numbers[MAX_TOKENS]
    if numbers[ADAPTIVE]:
        return max(numbers[PREFILL_TOKENS], numbers[MAX_TOKENS] // num_requests)
    return numbers[PREFILL_TOKENS]


@compiled
def _begin(core, step):
    """Start the forward pass: advance what is computed, and count the work."""
    counts, requests, steps = int_rows(core, COUNTS)[step], int_rows(core, REQUESTS), int_rows(core, STEPS)
    batch, samples = steps[step * NUM_SECTIONS + SCHEDULED], steps[step * NUM_SECTIONS + SAMPLES]
    batch_tokens = steps[step * NUM_SECTIONS + SCHEDULED_TOKENS]
    is_async = ints(core, NUMBERS)[IS_ASYNC]
    for place in range(counts[SCHEDULED]):
        row = requests[batch[place]]
        tokens, before = row[PLANNED], row[COMPUTED]
        batch_tokens[place] = tokens
        row[PLANNED], row[COMPUTED] = 0, before + tokens
        row[IN_FLIGHT] += tokens
        samples[place] = before + tokens == row[TOKENS] + row[PLACEHOLDERS]
        if samples[place]:
            row[PLACEHOLDERS] += is_async
            counts[WORK_SAMPLED] += 1
        counts[WORK_TOKENS] += tokens
        counts[WORK_CONTEXT] += before + tokens
        counts[WORK_PAIRS] += tokens * before + tokens * (tokens + 1) // 2
        counts[WORK_PREFILL] += tokens if tokens > 1 else 0


@compiled
def update(core):
    """Take in what the oldest step sampled; return its number of three and how many got a token and are finished."""
    numbers, requests, steps = ints(core, NUMBERS), int_rows(core, REQUESTS), int_rows(core, STEPS)
    step = numbers[OLDEST_STEP]
    counts = int_rows(core, COUNTS)[step]
    batch, samples = steps[step * NUM_SECTIONS + SCHEDULED], steps[step * NUM_SECTIONS + SAMPLES]
    batch_tokens = steps[step * NUM_SECTIONS + SCHEDULED_TOKENS]
    for place in range(counts[SCHEDULED]):
        row = requests[batch[place]]
        row[IN_FLIGHT] -= batch_tokens[place]
        is_stale = row[STALE] > 0
        if is_stale:
            row[STALE] -= batch_tokens[place]
        if samples[place] and not row[IS_FINISHED]:
            _append_token(core, batch[place], is_stale)
            append(core, step, SAMPLED, batch[place])
            if row[TOKENS] >= row[STOP]:
                row[IS_FINISHED] = 1
                append(core, step, FINISHED, batch[place])
    if counts[FINISHED] > 0:
        _finish(core, step)
    numbers[OLDEST_STEP] = (step + 1) % 3
    return step, counts[SAMPLED], counts[FINISHED]


@compiled
def _append_token(core, request, is_stale):
    row = int_rows(core, REQUESTS)[request]
    row[TOKENS] += 1
    if ints(core, NUMBERS)[IS_ASYNC]:
        if not is_stale:
            row[PLACEHOLDERS] -= 1
        if row[SLOT] != NONE:
            cache(core, request, row[COMPUTED] - row[PLACEHOLDERS])


@compiled
def _finish(core, step):
    """Free the requests that are finished, in the order of the batch."""
    numbers, running = ints(core, NUMBERS), int_rows(core, LISTS)[RUNNING]
    requests, num_before = int_rows(core, REQUESTS), numbers[NUM_RUNNING]
    finished = int_rows(core, STEPS)[step * NUM_SECTIONS + FINISHED]
    for place in range(int_rows(core, COUNTS)[step, FINISHED]):
        if requests[finished[place], SLOT] == NONE:
            remove(core, finished[place])
        else:
            release(core, finished[place])
            free_slot(core, finished[place])
    num_left = 0
    for place in range(num_before):
        if requests[running[place], SLOT] != NONE:
            running[num_left] = running[place]
            num_left += 1
