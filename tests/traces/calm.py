"""Parameters of a generator whose weights drift, and neither jump nor burst."""

from __future__ import annotations

from typing import Any

from kvsim.traces.generator.parameters import EstimateParameters

CALM: dict[str, Any] = {
    "sink_frac": 0.2,
    "recent_frac": 0.4,
    "recency_exponent": 1.0,
    "near_exponent": 0.0,
    "attraction_spread_nats": 1.0,
    "dynamic_spread_nats": 1.0,
    "persistence_per_step": 0.9,
    "jitter_spread_nats": 0.0,
    "shift_rate_per_step": 0.0,
    "shift_redraw_frac": 0.0,
    "burst_rate_per_step": 0.0,
    "burst_size_nats": 0.0,
    "burst_duration_steps": 1,
    "layer_affinity_corr": 0.5,
    "estimate": EstimateParameters(slope=1.0, noise_spread_nats=0.5, noise_persistence_per_step=0.5),
}
