"""How the middle's mass falls with rank: measured as log-shares at normal scores, and laid over any number of pages."""

from __future__ import annotations

import numpy as np

from kvsim.traces.access.base import MASS, AccessSource
from kvsim.traces.access.statistics import recent_pages, step_scores
from kvsim.traces.generator.curves import normal_scores
from kvsim.traces.generator.parameters import PROFILE_SCORES
from kvsim.types import FloatArray, pages_of

_FLOOR = 2.0**-25
"""Half of the smallest f16: what stands for a mass that was rounded away."""
_EVERY_STEPS = 4
"""Every fourth step is enough for a mean."""
_END_FRAC = 0.1
"""Part of the ranks at either end whose slope goes on beyond them."""


def measure_profile(source: AccessSource, page_tokens: int, num_steps: int) -> FloatArray:
    """Return the log-share of the page of the middle whose rank has each of `PROFILE_SCORES`, ``[num_layers, scores]``.

    The middle is that of each step, which the generator fills: all pages but the first and the last 128 tokens'.
    Shares are averaged over steps and sequences, not their logarithms: the generated mass in the best k pages is then
    the trace's, for every k.
    """
    recent = recent_pages(page_tokens)
    total = np.zeros((source.num_layers, len(PROFILE_SCORES)))
    count = 0
    for step in range(0, num_steps, _EVERY_STEPS):
        mass = step_scores(source, step, MASS, page_tokens).astype(np.float64)
        for sequence, context in enumerate(source.context_tokens(step).tolist()):
            middle = np.maximum(mass[sequence, :, 1 : pages_of(context, page_tokens) - recent], _FLOOR)
            ranked = -np.sort(-middle, axis=-1)
            total += np.exp(_at_scores(np.log(ranked / ranked.sum(axis=-1, keepdims=True))))
            count += 1
    mean = np.log(total / count)
    profile: FloatArray = np.maximum.accumulate(mean - mean.mean(axis=-1, keepdims=True), axis=-1)
    return profile


def _at_scores(ranked: FloatArray) -> FloatArray:
    """Return log-shares, largest first, at `PROFILE_SCORES`; beyond the ranks there are they go on as the last do."""
    scores, at = normal_scores(ranked.shape[-1]), np.array(PROFILE_SCORES)
    values = np.stack([np.interp(at, scores[::-1], row[::-1]) for row in ranked])
    ends = max(2, round(_END_FRAC * scores.size))
    for side, edge, beyond in ((slice(0, ends), 0, at > scores[0]), (slice(-ends, None), -1, at < scores[-1])):
        slope = np.maximum(np.polyfit(scores[side], ranked[:, side].T, 1)[0], 0)  # [num_layers]
        values[:, beyond] = ranked[:, [edge]] + slope[:, None] * (at[beyond] - scores[edge])
    return values


def profile_at(profile: FloatArray, num_pages: int) -> FloatArray:
    """Return the log-weights of `num_pages` pages by rank, the least first; linear between scores and beyond them."""
    scores, at = np.array(PROFILE_SCORES), normal_scores(num_pages)[::-1]
    left = np.clip(np.searchsorted(scores, at, side="right") - 1, 0, scores.size - 2)
    share = (at - scores[left]) / (scores[left + 1] - scores[left])
    nats: FloatArray = profile[:, left] + share * (profile[:, left + 1] - profile[:, left])
    return nats


def spread_of(profile: FloatArray) -> FloatArray:
    """Return the standard deviation of the log-weights of pages that follow a profile, ``[num_layers]``."""
    spread: FloatArray = profile_at(profile, 101).std(axis=-1)
    return spread
