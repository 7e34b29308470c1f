"""The random process behind generated accesses: log-weights that stay, wander, jump together and burst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.scenario.toml import Strict
from kvsim.traces.access.statistics import recent_pages
from kvsim.traces.generator.parameters import PROFILE_SCORES, EstimateParameters, LayerParameters
from kvsim.traces.generator.profile import profile_at
from kvsim.types import FloatArray, pages_of

Field = NDArray[np.float32]
"""One number a page of every layer, ``[num_sequences, num_layers, num_pages]``."""

_NO_PROFILE = (np.nan,) * len(PROFILE_SCORES)
_NO_ESTIMATE = EstimateParameters(slope=0.0, noise_spread_nats=0.0, noise_persistence_per_step=0.0)
NEAR_TOKENS = 1024
"""Up to this age a middle page's weight falls with it."""
_TINY = 1e-30
"""Below every f16: the logarithm of a mass that is none stays finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The parameters of every layer as columns, ``[num_layers, 1]`` each, ready to meet a `Field`."""

    sink: FloatArray
    recent: FloatArray
    recency_exponent: FloatArray
    near_exponent: FloatArray
    attraction: Field
    dynamic: Field
    persistence: Field
    jitter: Field
    shift_rate: FloatArray
    shift_correlation: Field
    burst_rate: FloatArray
    burst_size: FloatArray
    burst_steps: FloatArray
    profile: FloatArray
    """``[num_layers, len(PROFILE_SCORES)]``; nan where a layer has none."""
    affinity: Field
    slope: Field
    noise: Field
    noise_persistence: Field
    has_estimate: NDArray[np.bool_]


def columns_of(layers: Sequence[LayerParameters]) -> Columns:
    """Return the parameters of `layers` as columns."""
    estimates = [layer.estimate or _NO_ESTIMATE for layer in layers]

    def column(name: str, dtype: type, of: Sequence[Strict] = layers) -> NDArray[Any]:
        return np.array([getattr(each, name) for each in of], dtype=dtype)[:, None]

    affinity = column("layer_affinity_corr", np.float32)
    affinity[0] = 0
    return Columns(
        sink=column("sink_frac", np.float64),
        recent=column("recent_frac", np.float64),
        recency_exponent=column("recency_exponent", np.float64),
        near_exponent=column("near_exponent", np.float64),
        attraction=column("attraction_spread_nats", np.float32),
        dynamic=column("dynamic_spread_nats", np.float32),
        persistence=column("persistence_per_step", np.float32),
        jitter=column("jitter_spread_nats", np.float32),
        shift_rate=column("shift_rate_per_step", np.float64),
        shift_correlation=((1 - column("shift_redraw_frac", np.float64)) ** 0.5).astype(np.float32),
        burst_rate=column("burst_rate_per_step", np.float64),
        burst_size=column("burst_size_nats", np.float64),
        burst_steps=column("burst_duration_steps", np.float64),
        profile=np.array([layer.mass_profile_nats or _NO_PROFILE for layer in layers]),
        affinity=affinity,
        slope=column("slope", np.float32, estimates),
        noise=column("noise_spread_nats", np.float32, estimates),
        noise_persistence=column("noise_persistence_per_step", np.float32, estimates),
        has_estimate=np.array([layer.estimate is not None for layer in layers])[:, None],
    )


@dataclass(slots=True)
class _Burst:
    sequence: int
    page: int
    size: Field
    """Added to the page's log-weight, by layer; 0 where the layer takes no part, ``[num_layers]``."""
    steps_left: NDArray[np.float64]


class Process:
    """Log-weights of the middle and noise of the estimate, one step after another.

    ``dynamic <- p dynamic + sqrt(1 - p^2) e`` with `p` the persistence, less at a phase shift; `e` and the static
    part of a layer are correlated with those of the layer before: ``e_l <- c e_(l-1) + sqrt(1 - c^2) e_l``.
    """

    def __init__(self, columns: Columns, num_sequences: int, seed: int) -> None:
        self._columns = columns
        streams = np.random.SeedSequence(seed).spawn(5)  # one each, so that none disturbs another
        self._static_rng, self._dynamic_rng, self._noise_rng, self._event_rng, self._jitter_rng = (
            np.random.Generator(np.random.SFC64(stream)) for stream in streams
        )
        empty = np.zeros((num_sequences, columns.sink.size, 0), dtype=np.float32)
        self._static, self._dynamic, self._noise = empty, empty, empty
        self._fresh, self._jitter = empty, empty
        self._bursts: list[_Burst] = []
        self.num_pages = 0

    def advance(self, num_pages: int, middle_end: int) -> None:
        """Go to the next step, at which there are `num_pages` pages and the middle ends before page `middle_end`."""
        if self.num_pages:
            self._wander()
        if num_pages > self.num_pages:
            self._open_pages(num_pages)
        self._jitter_rng.standard_normal(dtype=np.float32, out=self._jitter)
        _relate_layers(self._jitter, self._columns.affinity)
        self._burst(middle_end)

    def log_weights(self) -> Field:
        """Return the log-weight of every page but the first, ``[num_sequences, num_layers, num_pages - 1]``."""
        weights = self._static[..., 1:] * self._columns.attraction
        weights += self._dynamic[..., 1:] * self._columns.dynamic
        if self._columns.jitter.any():
            weights += self._jitter[..., 1:] * self._columns.jitter
        for burst in self._bursts:
            weights[burst.sequence, :, burst.page - 1] += burst.size
        return weights

    def noise(self) -> Field:
        """Return the noise of the estimate of every page, of spread 1."""
        return self._noise

    def _wander(self) -> None:
        columns = self._columns
        shape = self._dynamic.shape
        is_shift = self._event_rng.random(shape[0])[:, None, None] < columns.shift_rate
        persistence = columns.persistence * np.where(is_shift, columns.shift_correlation, np.float32(1))
        self._dynamic *= persistence
        self._dynamic_rng.standard_normal(dtype=np.float32, out=self._fresh)
        _relate_layers(self._fresh, columns.affinity)
        self._fresh *= np.sqrt(1 - persistence**2)
        self._dynamic += self._fresh
        if columns.has_estimate.any():
            self._noise *= columns.noise_persistence
            self._noise_rng.standard_normal(dtype=np.float32, out=self._fresh)
            self._fresh *= np.sqrt(1 - columns.noise_persistence**2)
            self._noise += self._fresh

    def _open_pages(self, num_pages: int) -> None:
        num_sequences, num_layers, before = self._static.shape
        shape = (num_sequences, num_layers, num_pages - before)
        drawn = [
            rng.standard_normal(shape, dtype=np.float32)
            for rng in (self._static_rng, self._dynamic_rng, self._noise_rng)
        ]
        for field in drawn[:2]:
            _relate_layers(field, self._columns.affinity)
        old = (self._static, self._dynamic, self._noise)
        self._static, self._dynamic, self._noise = (
            np.concatenate(pair, axis=-1) for pair in zip(old, drawn, strict=True)
        )
        self._fresh, self._jitter = np.empty_like(self._dynamic), np.empty_like(self._dynamic)
        self.num_pages = num_pages

    def _burst(self, middle_end: int) -> None:
        rate = self._columns.burst_rate[:, 0]
        for burst in self._bursts:
            burst.steps_left -= 1
            burst.size[burst.steps_left <= 0] = 0
        self._bursts = [burst for burst in self._bursts if burst.size.any()]
        for sequence in range(self._static.shape[0]):
            for _ in range(self._event_rng.poisson(rate.max())):
                page = int(self._event_rng.integers(1, middle_end))
                takes_part = self._event_rng.random() * rate.max() < rate
                size = np.where(takes_part, self._columns.burst_size[:, 0], 0).astype(np.float32)
                steps_left = self._columns.burst_steps[:, 0].copy()
                self._bursts.append(_Burst(sequence, page, size, steps_left))


def _relate_layers(field: Field, affinity: Field) -> None:
    """Make each layer of independent normals as correlated with the one before as `affinity` says, in place."""
    own = np.sqrt(1 - affinity**2)
    for layer in range(1, field.shape[1]):
        if affinity[layer, 0]:
            field[:, layer] *= own[layer]
            field[:, layer] += affinity[layer] * field[:, layer - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How a layer's mass is divided at one context, ``[num_layers, 1]`` each, and what age does to a page's weight."""

    sink: FloatArray
    middle: FloatArray
    recent: FloatArray
    recency_nats: Field
    """Added to the log-weights of the last pages, ``[num_layers, num_near_pages + num_recent_pages]``."""
    profile_nats: Field
    """What the middle's pages weigh, the least first, ``[num_layers, num_middle_pages]``; nan in a layer without."""


def shares_at(columns: Columns, context_tokens: int, page_tokens: int, recent_left_frac: float) -> Shares:
    """Return the shares at `context_tokens`, where the recent window keeps `recent_left_frac` of its own.

    A recent page weighs what `recency_weights` says, a middle page ``(age / 1024 tokens) ** -exponent`` up to that age.
    """
    num_pages, recent = pages_of(context_tokens, page_tokens), recent_pages(page_tokens)
    first_near = max(1, (context_tokens - NEAR_TOKENS) // page_tokens)
    first = np.arange(first_near, num_pages) * page_tokens
    newest = context_tokens - np.minimum(first + page_tokens, context_tokens)
    oldest = context_tokens - first
    age_tokens = np.clip(newest, page_tokens, NEAR_TOKENS)
    nats = -columns.near_exponent * np.log(age_tokens / NEAR_TOKENS)
    nats[:, -recent:] = np.log(recency_weights(newest[-recent:], oldest[-recent:], columns.recency_exponent))
    recent_share = columns.recent * recent_left_frac
    return Shares(
        sink=columns.sink,
        middle=np.maximum(1 - columns.sink - recent_share, 0),
        recent=recent_share,
        recency_nats=nats.astype(np.float32),
        profile_nats=profile_at(columns.profile, max(num_pages - 1 - recent, 0)).astype(np.float32),
    )


def recency_weights(newest_tokens: NDArray[Any], oldest_tokens: NDArray[Any], exponent: FloatArray) -> FloatArray:
    """Return the integral of ``(1 + age) ** -exponent`` over pages between two ages: an open page grows as it fills."""
    power = np.where(np.abs(1 - exponent) < 1e-6, 1e-6, 1 - exponent)
    weights: FloatArray = ((1 + oldest_tokens) ** power - (1 + newest_tokens) ** power) / power
    return weights


def masses(log_weights: Field, shares: Shares, recent: int) -> tuple[Field, Field]:
    """Return the mass of every page and its logarithm, both ``[num_sequences, num_layers, num_pages]``.

    `log_weights` are those of `Process.log_weights`, and are changed; the last `recent` pages share the recent mass.
    """
    log_weights[..., -shares.recency_nats.shape[1] :] += shares.recency_nats
    _reshape(log_weights[..., : log_weights.shape[-1] - recent], shares.profile_nats)
    logs = np.empty((*log_weights.shape[:2], 1 + log_weights.shape[2]), dtype=np.float32)
    mass = np.empty_like(logs)
    mass[..., 0] = shares.sink[:, 0]
    logs[..., 0] = np.log(np.maximum(shares.sink[:, 0], _TINY))
    for part, share in ((slice(1, -recent), shares.middle), (slice(-recent, None), shares.recent)):
        own = log_weights[..., part.start - 1 if part.start > 0 else part.start : part.stop]
        shifted = np.subtract(own, own.max(axis=-1, keepdims=True), out=logs[..., part])
        weights = np.exp(shifted, out=mass[..., part])
        total = weights.sum(axis=-1, keepdims=True, dtype=np.float32)
        shifted += np.log(np.maximum(share, _TINY)).astype(np.float32) - np.log(total)
        weights *= (share / total).astype(np.float32)
    return mass, logs


def _reshape(middle: Field, profile_nats: Field) -> None:
    """Give each page of the middle the log-weight that its rank has by the profile of its layer, in place."""
    layers = np.flatnonzero(~np.isnan(profile_nats).any(axis=-1))
    if not layers.size:
        return
    order = np.argsort(middle[:, layers], axis=-1)
    shaped = np.empty_like(middle[:, layers])
    np.put_along_axis(shaped, order, np.broadcast_to(profile_nats[layers], order.shape), axis=-1)
    middle[:, layers] = shaped


def estimates(logs: Field, noise: Field, columns: Columns) -> Field:
    """Return the estimate of every page; it consumes `logs`."""
    logs *= columns.slope
    logs += noise * columns.noise
    logs -= logs.max(axis=-1, keepdims=True)
    scores = np.exp(logs, out=logs)
    scores *= columns.has_estimate / scores.sum(axis=-1, keepdims=True, dtype=np.float32)
    return scores
