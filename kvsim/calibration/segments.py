"""Times the segments of compute on random contexts, where nothing moves: a sample is a step's mean over its layers."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from kvsim.calibration.bench import MAX_ROUNDS, SHORT_TOKENS, WARMUP_STEPS, Bench, step_parts
from kvsim.calibration.fit import Sample
from kvsim.calibration.plan import Plan
from kvsim.types import BoolArray, FloatArray


def segment_samples(bench: Bench) -> dict[str, list[Sample]]:
    """Return samples of every segment but predicting, a step each: the mean over the step's layers.

    Compute is timed under `resident`: nothing moves. ``select`` holds the read-back of scores, which waits for nothing
    on a synchronous machine; ``attention`` holds the look-up of late pages that finds none.
    """
    samples: dict[str, list[Sample]] = defaultdict(list)
    plan = bench.plan
    for page_tokens in plan.page_tokens:
        for batch in plan.batches:
            for context_tokens, amounts in plan.attended_tokens.items():
                fitting = [amount for amount in amounts if amount // batch >= page_tokens]
                if fitting:
                    _add_segments(bench, samples, page_tokens, batch, context_tokens, fitting)
    return samples


def speculation_samples(bench: Bench) -> list[Sample]:
    """Return samples of predicting the next layer's scores, a step each: the mean over all layers but the last.

    Over pages of the batch, as `segment_samples` has ``select``, in runs of their own: what predicts has just read the
    next layer's weights, and that layer's own work would look cheaper than it is. None where there is but one layer.
    """
    samples: list[Sample] = []
    if bench.num_layers == 1:
        return samples
    per_layer = bench.num_layers / (bench.num_layers - 1)
    for page_tokens, batch, context_tokens in _speculated(bench.plan):
        page_counts = [
            min(bench.plan.attended_tokens[context_tokens]) // (batch * page_tokens) or 1
        ] * bench.plan.num_steps
        _, quiet, parts = _resident_run(bench, page_tokens, batch, context_tokens, page_counts, predicts=True)
        times_s = parts["speculate"][quiet] * per_layer
        samples += [(context_tokens // page_tokens, batch, time_s) for time_s in times_s.tolist()]
    return samples


def _speculated(plan: Plan) -> list[tuple[int, int, int]]:
    """Return page size, batch and context of the runs that time predicting: it grows linearly with the pages."""
    contexts = (min(plan.attended_tokens), max(plan.attended_tokens))
    return [(page, batch, context) for page in plan.page_tokens for batch in plan.batches for context in contexts]


def num_segment_steps(plan: Plan) -> int:
    """Return the steps that both take, for a progress bar."""
    predicted = len(_speculated(plan)) * (WARMUP_STEPS + plan.num_steps)
    return predicted + sum(
        WARMUP_STEPS + plan.num_steps * len([amount for amount in amounts if amount // batch >= page_tokens])
        for page_tokens in plan.page_tokens
        for batch in plan.batches
        for amounts in plan.attended_tokens.values()
    )


def _resident_run(
    bench: Bench,
    page_tokens: int,
    batch: int,
    context_tokens: int,
    page_counts: list[int],
    *,
    predicts: bool = False,
) -> tuple[list[int], BoolArray, dict[str, FloatArray]]:
    """Return the pages of each step of a run with everything resident, which steps count, and the parts by step."""
    with bench.decoder(
        "resident",
        page_tokens=page_tokens,
        num_sequences=batch,
        context_tokens=context_tokens,
        max_steps=MAX_ROUNDS * (len(page_counts) + WARMUP_STEPS),
        predicts=predicts,
    ) as (decoder, schedule, stamps, _):
        ran, quiet = bench.quiet_steps(decoder, schedule, stamps, page_counts, idle_frac=0.02)
    return ran, quiet, step_parts(stamps, bench.num_layers)


def _add_segments(
    bench: Bench,
    samples: dict[str, list[Sample]],
    page_tokens: int,
    batch: int,
    context_tokens: int,
    amounts: list[int],
) -> None:
    page_counts = [amount // (batch * page_tokens) for amount in amounts] * bench.plan.num_steps
    ran, quiet, parts = _resident_run(bench, page_tokens, batch, context_tokens, page_counts)
    pages = context_tokens // page_tokens
    for step in np.flatnonzero(quiet).tolist():
        attended = ran[step] * batch * page_tokens - SHORT_TOKENS
        for name in ("embed", "head", "attention_input", "attention_output"):
            samples[name].append((1.0, batch, parts[name][step]))
        select_s = parts["select"][step] + parts["sync"][step] + parts["choose"][step]
        samples["select"].append((pages, batch, select_s))
        attention_s = parts["decide"][step] + parts["submit"][step] + parts["stall"][step] + parts["attention"][step]
        samples["attention"].append((attended, batch, attention_s))
