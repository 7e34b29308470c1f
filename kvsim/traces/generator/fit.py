"""Fits the generator to a real trace: moments where they are plain, simulate and match for what ranks decide."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from kvsim.errors import TraceError
from kvsim.traces.access.base import MASS, AccessSource
from kvsim.traces.access.statistics import RECALL_GAP_STEPS, RECALL_PAGES, TraceStatistics, measure_statistics
from kvsim.traces.generator.curves import MAX_ANGLE, MAX_SPREAD_NATS, RankCurves, rank_curves
from kvsim.traces.generator.generate import SyntheticSource
from kvsim.traces.generator.moments import MAX_EXPONENT, Moments, measure_moments
from kvsim.traces.generator.parameters import EstimateParameters, GeneratorParameters, LayerParameters
from kvsim.traces.generator.profile import measure_profile, spread_of
from kvsim.traces.generator.recall import compare_recall
from kvsim.types import FloatArray

MIN_STEPS = 24
"""Fewer steps say too little of what lasts."""
_MAX_STEPS = 160
"""Steps of the trace that are looked at: more cost time and change little."""
_ROUNDS = 5
_SEQUENCES = 3
"""Sequences simulated in a round, so that one draw of the static weights does not lead."""
_GAIN = 0.8
"""Part of a difference that a round corrects; the whole of it overshoots on noise."""
_SEED = 20_240_229
_MAX_PERSISTENCE = 0.9995
_MOST = {"near": MAX_EXPONENT, "estimate_spread": MAX_SPREAD_NATS}
"""Of the settings that are no angles."""
_LEAST_SHARE = 1e-6
"""Of a mass of which the logarithm is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What is turned until the statistics match, by layer: spreads in nats, correlations as angles (arc cosines)."""

    near: FloatArray
    """The exponent of age before the recent window; as seen, half the logarithm of what lies there over the middle."""

    step: FloatArray
    """Of a page's log-weight with the step before."""
    gap: FloatArray
    """Of a page's log-weight with 8 steps before."""
    lasting: FloatArray
    """Of a page's log-weight with the first steps: what never changes."""
    layer: FloatArray
    estimate_spread: FloatArray
    estimate: FloatArray
    """Of the estimate with the log-weight."""
    estimate_step: FloatArray

    def turned(self, target: _Settings, measured: _Settings) -> _Settings:
        """Return these moved by what `found` lacks of `wanted`."""
        turned = {}
        for name in (each.name for each in fields(self)):
            moved = getattr(self, name) + _GAIN * (getattr(target, name) - getattr(measured, name))
            turned[name] = np.clip(moved, 0, _MOST.get(name, MAX_ANGLE))
        return _Settings(**turned)


def fit_generator(
    source: AccessSource, page_tokens: int, channel: str | None = None, *, name: str = ""
) -> GeneratorParameters:
    """Return the parameters whose generated accesses have the statistics of `source`; the same at every call.

    Shares, recency, phase shifts and bursts come from moments. Spreads, persistence, layer affinity and the estimate
    come from the middle's best 8 pages: of two correlated normal fields, the share of them in common depends on the
    correlation alone, and that curve is inverted. Then the generator runs, and each value moves by what its
    statistic still lacks, a few times over.

    Parameters
    ----------
    channel
        The estimate to fit, as in ``estimate:quest``; None or ``mass`` fits the mass alone.
    name
        What the parameters say they were fitted to.

    Raises
    ------
    TraceError
        If the channel is not there for this page size, or the trace is too short to say anything.
    """
    channel = None if channel == MASS else channel
    channels = () if channel is None else (channel,)
    num_steps = min(source.num_steps, _MAX_STEPS)
    real = measure_statistics(source, page_tokens, channels=channels, num_steps=num_steps)
    _check(real, name)
    moments = measure_moments(source, page_tokens, num_steps, real.middle_pages + 1)
    profile = measure_profile(source, page_tokens, num_steps)
    curves = rank_curves(real.middle_pages)
    context_tokens = int(source.context_tokens(0).max())
    target = _settings_of(real, curves, channel)

    def parameters_of(settings: _Settings) -> GeneratorParameters:
        return GeneratorParameters(
            fitted_to=name,
            page_tokens=page_tokens,
            context_tokens=context_tokens,
            channel=channel,
            layers=_layers(settings, moments, profile, real, channel),
        )

    settings = replace(target, near=moments.near_exponent)
    for _ in range(_ROUNDS):
        trial = SyntheticSource(
            parameters_of(settings),
            context_tokens=context_tokens,
            num_steps=num_steps,
            num_sequences=_SEQUENCES,
            seed=_SEED,
        )
        measured = _settings_of(measure_statistics(trial, page_tokens), curves, channel)
        settings = settings.turned(target, measured)
    fitted = parameters_of(settings)
    return fitted.model_copy(update={"recall": compare_recall(source, fitted, num_steps)})


def _check(real: TraceStatistics, name: str) -> None:
    if real.num_steps < MIN_STEPS:
        raise TraceError(name or "trace", f"{real.num_steps} steps are too few to fit; at least {MIN_STEPS}")
    if not np.isfinite(real.middle_step_recall_frac).all():
        raise TraceError(
            name or "trace",
            f"the middle has {real.middle_pages} pages of {real.page_tokens} tokens, a fit needs more than "
            f"{RECALL_PAGES}: take smaller pages or capture a longer context",
        )


def _settings_of(seen: TraceStatistics, curves: RankCurves, channel: str | None) -> _Settings:
    nothing = np.full(seen.num_layers, np.nan)
    name = channel or ""
    near = np.maximum(1 - seen.sink_frac - seen.recent_frac - seen.middle_frac, _LEAST_SHARE)
    return _Settings(
        near=np.log(near / np.maximum(seen.middle_frac, _LEAST_SHARE)) / 2,
        step=curves.angle_of(seen.middle_step_recall_frac),
        gap=curves.angle_of(seen.middle_gap_recall_frac),
        lasting=curves.angle_of(seen.middle_first_recall_frac),
        layer=curves.angle_of(seen.middle_layer_recall_frac),
        estimate_spread=curves.spread_of(seen.middle_channel_top_frac.get(name, nothing)),
        estimate=curves.angle_of(seen.middle_channel_recall_frac.get(name, nothing)),
        estimate_step=curves.angle_of(seen.middle_channel_step_recall_frac.get(name, nothing)),
    )


def _layers(
    settings: _Settings, moments: Moments, profile: FloatArray, real: TraceStatistics, channel: str | None
) -> tuple[LayerParameters, ...]:
    step = np.cos(settings.step)
    lasting = np.minimum(np.cos(settings.lasting), step)
    gap = np.clip(np.cos(settings.gap), lasting, step)
    fades = ((gap - lasting) / np.maximum(step - lasting, 1e-9)) ** (1 / (RECALL_GAP_STEPS - 1))
    per_step = np.clip(fades, 0, _MAX_PERSISTENCE)
    dynamic = np.clip((step - lasting) / np.maximum(per_step, 1e-6), 0, 1 - lasting)
    jitter = np.maximum(1 - lasting - dynamic, 0)
    persistence, shift_correlation = _with_shifts(
        (step - lasting) / np.maximum(dynamic, 1e-6), jitter, dynamic, moments
    )
    total = real.sink_frac + real.recent_frac
    scale = np.where(total > 1, 1 / total, 1.0) * (1 - 1e-9)
    spreads = spread_of(profile)
    rows = []
    for layer in range(real.num_layers):
        spread = float(spreads[layer])
        affinity = float(np.cos(settings.layer[layer])) if layer else 0.0
        rows.append(
            LayerParameters(
                sink_frac=float(real.sink_frac[layer] * scale[layer]),
                recent_frac=float(real.recent_frac[layer] * scale[layer]),
                recency_exponent=float(moments.recency_exponent[layer]),
                near_exponent=float(settings.near[layer]),
                attraction_spread_nats=spread * float(lasting[layer]) ** 0.5,
                dynamic_spread_nats=spread * float(dynamic[layer]) ** 0.5,
                jitter_spread_nats=spread * float(jitter[layer]) ** 0.5,
                persistence_per_step=float(persistence[layer]),
                shift_rate_per_step=float(moments.shift_rate_per_step[layer]),
                shift_redraw_frac=float(1 - shift_correlation[layer] ** 2),
                burst_rate_per_step=float(moments.burst_rate_per_step[layer]),
                burst_size_nats=float(moments.burst_size_nats[layer]),
                burst_duration_steps=int(moments.burst_duration_steps[layer]),
                mass_profile_nats=tuple(np.clip(profile[layer], -60, 60).tolist()),
                layer_affinity_corr=min(max(affinity, 0.0), 1.0),
                estimate=_estimate(settings, layer, float(step[layer]), spread) if channel else None,
            )
        )
    return tuple(rows)


def _with_shifts(
    average: FloatArray, jitter: FloatArray, dynamic: FloatArray, moments: Moments
) -> tuple[FloatArray, FloatArray]:
    """Return the persistence p of a step without a shift, and the part k of it that a shift keeps.

    Two equations, with r the rate of shifts, R how much larger the mean square move is at one, and J the variance of
    the jitter over that of the wandering weight: ``p (1 - r (1 - k)) = average`` and ``1 - p k + J = R (1 - p + J)``.
    """
    rate, more = moments.shift_rate_per_step, moments.shift_ratio - 1
    part = jitter / np.maximum(dynamic, 1e-6)
    average = np.clip(average, 0, _MAX_PERSISTENCE)
    persistence = np.clip((average + rate * more * (1 + part)) / (1 + rate * more), average, _MAX_PERSISTENCE)
    shift_correlation = 1 - (1 - average / np.maximum(persistence, 1e-9)) / np.where(rate > 0, rate, 1)
    return persistence, np.clip(np.where(persistence > 0, shift_correlation, 1), 0, 1)


def _estimate(settings: _Settings, layer: int, step_corr: float, mass_spread: float) -> EstimateParameters | None:
    """Return what is left of the estimate's spread and persistence once the part that follows the mass is taken off."""
    if not np.isfinite(settings.estimate[layer]):
        return None
    corr = float(np.cos(settings.estimate[layer]))
    noise_frac = max(1 - corr**2, 1e-6)
    spread = float(settings.estimate_spread[layer])
    persistence = (float(np.cos(settings.estimate_step[layer])) - corr**2 * step_corr) / noise_frac
    return EstimateParameters(
        slope=min(corr * spread / max(mass_spread, 1e-3), 20.0),
        noise_spread_nats=spread * noise_frac**0.5,
        noise_persistence_per_step=min(max(persistence, 0.0), _MAX_PERSISTENCE),
    )
