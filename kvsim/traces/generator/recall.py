"""What reading the best pages keeps of the attention mass, of a trace and of what a generator makes in its place."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from kvsim.traces.access.base import MASS, AccessSource
from kvsim.traces.access.statistics import recent_pages, step_scores
from kvsim.traces.generator.generate import SyntheticSource
from kvsim.traces.generator.parameters import GeneratorParameters, RecallAt
from kvsim.types import pages_of

K_PAGES = (2, 4, 8, 16, 32, 64)
"""Pages chosen by score, besides those that are always read."""
_EVERY_STEPS = 4
_SEED = 19_990_101
"""Another than the fit's own."""
_SEQUENCES = 2


def attention_recall_frac(source: AccessSource, page_tokens: int, channel: str, num_steps: int) -> list[float]:
    """Return the share of the mass in the first page, the last 128 tokens' and the best `K_PAGES` of the others.

    The best by `channel`; means over layers, sequences and every fourth step.
    """
    recent = recent_pages(page_tokens)
    total = np.zeros(len(K_PAGES))
    count = 0
    for step in range(0, num_steps, _EVERY_STEPS):
        masses, scores = (step_scores(source, step, name, page_tokens) for name in (MASS, channel))
        for sequence, context in enumerate(source.context_tokens(step).tolist()):
            num_pages = pages_of(context, page_tokens)
            middle = slice(1, max(1, num_pages - 1 - recent))  # the open page besides the window
            mass = masses[sequence].astype(np.float64)
            order = np.argsort(-scores[sequence, :, middle], axis=-1, kind="stable")
            reached = np.cumsum(np.take_along_axis(mass[:, middle], order, axis=-1), axis=-1)
            whole = mass[:, :num_pages].sum(axis=-1)
            fixed = whole - reached[:, -1]
            best = [reached[:, min(k, reached.shape[1]) - 1] for k in K_PAGES]
            total += [float(((fixed + own) / whole).mean()) for own in best]
            count += 1
    return [float(share) for share in total / count]


def compare_recall(source: AccessSource, parameters: GeneratorParameters, num_steps: int) -> tuple[RecallAt, ...]:
    """Return the attention recall of a trace and of accesses generated at its own length and layers."""
    channel = parameters.channel or MASS
    made = SyntheticSource(
        parameters,
        context_tokens=parameters.context_tokens,
        num_steps=num_steps,
        num_sequences=_SEQUENCES,
        seed=_SEED,
    )
    own, generated = (
        attention_recall_frac(accesses, parameters.page_tokens, channel, num_steps) for accesses in (source, made)
    )
    return tuple(
        RecallAt(k_pages=k, trace_frac=trace, generated_frac=other)
        for k, trace, other in zip(K_PAGES, own, generated, strict=True)
    )


def recall_at(recall: tuple[RecallAt, ...], k_pages: int) -> RecallAt:
    """Return the recalls with `k_pages` chosen, linear between the numbers that were measured, their ends beyond.

    Examples
    --------
    >>> two, four = (RecallAt(k_pages=k, trace_frac=t, generated_frac=t + 0.02) for k, t in ((2, 0.5), (4, 0.7)))
    >>> round(recall_at((two, four), 3).trace_frac, 6), recall_at((two, four), 99).generated_frac
    (0.6, 0.72)
    """
    for near, far in pairwise(recall):
        if k_pages <= far.k_pages:
            share = max(0.0, (k_pages - near.k_pages) / (far.k_pages - near.k_pages))
            trace, generated = (
                first + share * (second - first)
                for first, second in (
                    (near.trace_frac, far.trace_frac),
                    (near.generated_frac, far.generated_frac),
                )
            )
            return RecallAt(k_pages=k_pages, trace_frac=trace, generated_frac=generated)
    return recall[-1]
