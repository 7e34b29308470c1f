"""What moments say of a trace, layer by layer: how fast the recent window decays, how often accesses jump or burst."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kvsim.traces.access.base import MASS, AccessSource
from kvsim.traces.access.statistics import recent_pages, step_scores
from kvsim.traces.generator.process import NEAR_TOKENS, recency_weights
from kvsim.types import BoolArray, FloatArray, IntArray, pages_of

_FLOOR = 2.0**-25
"""Half of the smallest f16: what stands for a mass that was rounded away."""
_SHIFT_RATIO = 2.0
"""A step whose log-weights move by more than so many times the median square is a phase shift."""
_BURST_SPREADS = 4.5
"""A page whose log-weight rises by more spreads than this in a step is a needle: by chance 3 in a million."""
_MAX_BURST_STEPS = 64
MAX_EXPONENT = 5.0
_EVERY_STEPS = 4
"""Of the contexts of a trace, every fourth is enough to average over how full the open page is."""


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
    seen = _read(source, page_tokens, num_steps, middle_end)
    moves = np.diff(seen.logs, axis=0)  # [num_steps - 1, num_sequences, num_layers, middle_pages]
    usual = np.median((moves**2).mean(axis=-1), axis=(0, 1))  # [num_layers]
    spread = np.sqrt(np.maximum(usual, 1e-12))[:, None]
    is_start = moves > _BURST_SPREADS * spread
    calm = np.clip(moves, -_BURST_SPREADS * spread, _BURST_SPREADS * spread)  # one needle is no shift
    threshold = max(_SHIFT_RATIO, 1 + 5 * (2 / moves.shape[-1]) ** 0.5)
    is_shift = (calm**2).mean(axis=-1) > threshold * spread[:, 0] ** 2
    is_start &= ~is_shift[..., None]  # a jump of everything is no needle
    shifts, starts = is_shift.sum(axis=(0, 1)), is_start.sum(axis=(0, 1, 3))
    at_shift = np.where(is_shift, (moves**2).mean(axis=-1), 0).sum(axis=(0, 1)) / np.maximum(shifts, 1)
    contexts = [source.context_tokens(step).tolist() for step in range(0, num_steps, _EVERY_STEPS)]
    ages = [_ages(context, page_tokens) for batch in contexts for context in batch]
    return Moments(
        recency_exponent=_recency_exponent(ages, page_tokens, seen.recent_fall),
        near_exponent=_near_exponent(ages, page_tokens, middle_end, seen.between_ratio),
        shift_rate_per_step=shifts / (is_shift.shape[0] * is_shift.shape[1]),
        shift_ratio=np.where(shifts > 0, at_shift / spread[:, 0] ** 2, 1.0),
        burst_rate_per_step=starts / (moves.shape[0] * moves.shape[1]),
        burst_size_nats=np.where(is_start, moves, 0).sum(axis=(0, 1, 3)) / np.maximum(starts, 1),
        burst_duration_steps=_durations(seen.logs, moves, is_start),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    logs: FloatArray
    """Log-masses of the middle, centred, ``[num_steps, num_sequences, num_layers, middle_pages]``."""
    recent_fall: FloatArray
    """How log-mass falls with log-age over the recent pages: their product, the mean over steps, ``[num_layers]``."""
    between_ratio: FloatArray
    """Mass between the middle and the recent window over that of the middle, ``[num_layers]``."""


def _read(source: AccessSource, page_tokens: int, num_steps: int, middle_end: int) -> _Seen:
    recent = recent_pages(page_tokens)
    logs = []
    fall, between, middle = (np.zeros(source.num_layers) for _ in range(3))
    for step in range(num_steps):
        mass = step_scores(source, step, MASS, page_tokens)
        row = np.log(np.maximum(mass[..., 1:middle_end], _FLOOR))
        logs.append(row - row.mean(axis=-1, keepdims=True))
        for sequence, context in enumerate(source.context_tokens(step).tolist()):
            newest = _ages(context, page_tokens)
            first_recent = newest.size - recent
            part = np.log(np.maximum(mass[sequence, :, first_recent : newest.size], _FLOOR))
            fall -= part @ _centred(np.log1p(newest[first_recent:]))
            between += mass[sequence, :, middle_end:first_recent].sum(axis=-1)
            middle += mass[sequence, :, 1:middle_end].sum(axis=-1)
    return _Seen(
        logs=np.stack(logs),
        recent_fall=fall / (num_steps * source.num_sequences),
        between_ratio=between / np.maximum(middle, 1e-12),
    )


def _ages(context_tokens: int, page_tokens: int) -> FloatArray:
    """Return the age of the newest token of each page, ``[num_pages]``."""
    end = np.minimum(np.arange(1, pages_of(context_tokens, page_tokens) + 1) * page_tokens, context_tokens)
    age: FloatArray = (context_tokens - end).astype(np.float64)
    return age


def _centred(row: FloatArray) -> FloatArray:
    centred: FloatArray = row - row.mean(axis=-1, keepdims=True)
    return centred


def _recency_exponent(ages: list[FloatArray], page_tokens: int, target: FloatArray) -> FloatArray:
    """Return the exponent at which log-mass falls with log-age as seen: what multiplies a mass at random cancels."""
    recent = recent_pages(page_tokens)
    if recent == 1:
        return np.ones(target.size)  # one page: nothing to fit it to
    newest = np.stack([age[-recent:] for age in ages])  # [contexts, recent]
    oldest = np.concatenate((newest[:, :1] + page_tokens, newest[:, :-1]), axis=1)

    log_age = _centred(np.log1p(newest))

    def fall(exponent: FloatArray) -> FloatArray:
        weights = recency_weights(newest, oldest, exponent[:, None, None])
        mean: FloatArray = -(np.log(weights) * log_age).sum(axis=-1).mean(axis=-1)
        return mean

    return _solve(fall, target)


def _near_exponent(ages: list[FloatArray], page_tokens: int, middle_end: int, target_ratio: FloatArray) -> FloatArray:
    """Return the exponent at which the pages between weigh what was seen against the middle."""
    recent = recent_pages(page_tokens)
    near = []  # a row of ages for each context, as long as the longest; what is no page of that kind has weight 0
    for kind in (slice(middle_end, -recent), slice(1, middle_end)):
        rows = [np.clip(age[kind], page_tokens, NEAR_TOKENS) / NEAR_TOKENS for age in ages]
        far = np.array([(row == 1).sum() for row in rows], dtype=np.float64)
        close = [row[row < 1] for row in rows]
        padded = np.full((len(close), max(row.size for row in close)), np.inf)
        for filled, row in zip(padded, close, strict=True):
            filled[: row.size] = row
        near.append((padded, far))

    def ratio(exponent: FloatArray) -> FloatArray:
        between, middle = (
            np.where(np.isinf(padded), 0, padded ** -exponent[:, None, None]).sum(axis=-1) + far for padded, far in near
        )
        between_frac: FloatArray = between.mean(axis=-1) / middle.mean(axis=-1)
        return between_frac

    return _solve(ratio, target_ratio)


def _solve(rising: Callable[[FloatArray], FloatArray], target: FloatArray) -> FloatArray:
    """Return the exponents between 0 and 5 at which `rising` is `wanted`, or the nearer end."""
    low, high = np.zeros(target.size), np.full(target.size, MAX_EXPONENT)
    for _ in range(20):
        middle = (low + high) / 2
        is_low = rising(middle) < target
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    exponent: FloatArray = (low + high) / 2
    return exponent


def _durations(logs: FloatArray, moves: FloatArray, is_start: BoolArray) -> IntArray:
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
