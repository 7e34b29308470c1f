"""What moments say of a trace, layer by layer: how fast the recent window decays, how often accesses jump or burst."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvsim.traces.base import MASS, AccessSource
from kvsim.traces.process import NEAR_TOKENS, recency_weights, recent_pages
from kvsim.traces.statistics import step_scores
from kvsim.types import FloatArray, IntArray, pages_of

_FLOOR = 2.0**-25
"""Half of the smallest f16: what stands for a mass that was rounded away."""
_SHIFT_RATIO = 2.0
"""A step whose log-weights move by more than so many times the median square is a phase shift."""
_BURST_SPREADS = 4.5
"""A page whose log-weight rises by more spreads than this in a step is a needle: by chance 3 in a million."""
_MAX_BURST_STEPS = 64
_MAX_EXPONENT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """By layer, ``[num_layers]`` each."""

    recency_exponent: FloatArray
    near_exponent: FloatArray
    shift_rate_per_step: FloatArray
    shift_ratio: FloatArray
    """Mean square move of the log-weights at a shift over that at other steps; 1 where there was none."""
    burst_rate_per_step: FloatArray
    burst_size_nats: FloatArray
    burst_duration_steps: IntArray


def measure_moments(source: AccessSource, page_tokens: int, num_steps: int, middle_end: int) -> Moments:
    """Return the moments over the first `num_steps` steps; the middle is pages 1 to `middle_end` - 1."""
    logs, newest_tokens, near_exponent = _read(source, page_tokens, num_steps, middle_end)
    moves = np.diff(logs, axis=0)  # [num_steps - 1, num_sequences, num_layers, middle_pages]
    usual = np.median((moves**2).mean(axis=-1), axis=(0, 1))  # [num_layers]
    spread = np.sqrt(np.maximum(usual, 1e-12))[:, None]
    is_start = moves > _BURST_SPREADS * spread
    calm = np.clip(moves, -_BURST_SPREADS * spread, _BURST_SPREADS * spread)
    square = (calm**2).mean(axis=-1)
    threshold = max(_SHIFT_RATIO, 1 + 5 * (2 / moves.shape[-1]) ** 0.5)
    is_shift = square > threshold * spread[:, 0] ** 2
    is_start &= ~is_shift[..., None]  # a jump of everything is no needle
    shifts = is_shift.sum(axis=(0, 1))
    at_shift = np.where(is_shift, square, 0).sum(axis=(0, 1)) / np.maximum(shifts, 1)
    return Moments(
        recency_exponent=_recency(source, page_tokens, num_steps, newest_tokens),
        near_exponent=near_exponent,
        shift_rate_per_step=shifts / (is_shift.shape[0] * is_shift.shape[1]),
        shift_ratio=np.where(shifts > 0, at_shift / spread[:, 0] ** 2, 1.0),
        burst_rate_per_step=is_start.sum(axis=(0, 1, 3)) / (moves.shape[0] * moves.shape[1]),
        burst_size_nats=_mean_where(moves, is_start),
        burst_duration_steps=_durations(logs, moves, is_start),
    )


def _read(
    source: AccessSource, page_tokens: int, num_steps: int, middle_end: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return log-masses of the middle, centred; by layer the mean age of the recent pages and the near exponent."""
    recent = recent_pages(page_tokens)
    logs = []
    age_tokens, product, square = np.zeros(source.num_layers), np.zeros(source.num_layers), 0.0
    for step in range(num_steps):
        mass = step_scores(source, step, MASS, page_tokens)
        row = np.log(np.maximum(mass[..., 1:middle_end], _FLOOR))
        logs.append(row - row.mean(axis=-1, keepdims=True))
        for sequence, context in enumerate(source.context_tokens(step).tolist()):
            newest, last = _ages(context, page_tokens), pages_of(context, page_tokens)
            part = mass[sequence, :, last - recent : last].astype(np.float64)
            age_tokens += part @ newest[last - recent :] / np.maximum(part.sum(axis=-1), 1e-12)
            near = np.arange(max(1, (context - NEAR_TOKENS) // page_tokens), last - recent)
            log_age = np.log(np.clip(newest[near], page_tokens, NEAR_TOKENS))
            log_age -= log_age.mean()
            product += np.log(np.maximum(mass[sequence][:, near], _FLOOR)) @ log_age
            square += float(log_age @ log_age)
    exponent = np.clip(-product / max(square, 1e-12), 0, _MAX_EXPONENT)
    return np.stack(logs), age_tokens / (num_steps * source.num_sequences), exponent


def _ages(context_tokens: int, page_tokens: int) -> FloatArray:
    """Return the age of the newest token of each page, ``[num_pages]``."""
    end = np.minimum(np.arange(1, pages_of(context_tokens, page_tokens) + 1) * page_tokens, context_tokens)
    age: FloatArray = (context_tokens - end).astype(np.float64)
    return age


def _recency(source: AccessSource, page_tokens: int, num_steps: int, wanted_tokens: FloatArray) -> FloatArray:
    """Return the exponent at which the mean age of the recent pages, which falls with it, is the one seen."""
    recent = recent_pages(page_tokens)
    if recent == 1:
        return np.ones(wanted_tokens.size)  # one page: nothing to tell it by
    contexts = np.concatenate([source.context_tokens(step) for step in range(num_steps)]).tolist()
    newest = np.stack([_ages(context, page_tokens)[-recent:] for context in contexts])  # [contexts, recent]
    oldest = np.concatenate((newest[:, :1] + page_tokens, newest[:, :-1]), axis=1)
    low, high = np.zeros(wanted_tokens.size), np.full(wanted_tokens.size, _MAX_EXPONENT)
    for _ in range(30):
        middle = (low + high) / 2
        weights = recency_weights(newest, oldest, middle[:, None, None])
        age_tokens = ((weights * newest).sum(axis=-1) / weights.sum(axis=-1)).mean(axis=-1)
        is_old = age_tokens > wanted_tokens
        low, high = np.where(is_old, middle, low), np.where(is_old, high, middle)
    exponent: FloatArray = (low + high) / 2
    return exponent


def _mean_where(values: FloatArray, is_in: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> FloatArray:
    mean: FloatArray = np.where(is_in, values, 0).sum(axis=(0, 1, 3)) / np.maximum(is_in.sum(axis=(0, 1, 3)), 1)
    return mean


def _durations(
    logs: FloatArray, moves: FloatArray, is_start: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
) -> IntArray:
    """Return how many steps a needle stays above half its rise, in the mean, at least 1."""
    total = np.zeros(logs.shape[2])
    count = np.zeros(logs.shape[2])
    for step, sequence, layer, page in np.argwhere(is_start).tolist():
        half = logs[step, sequence, layer, page] + moves[step, sequence, layer, page] / 2
        after = logs[step + 1 : step + 1 + _MAX_BURST_STEPS, sequence, layer, page] < half
        total[layer] += int(after.argmax()) if after.any() else after.size
        count[layer] += 1
    mean = np.where(count > 0, total / np.maximum(count, 1), 1)
    return np.maximum(np.rint(mean), 1).astype(np.int64)
