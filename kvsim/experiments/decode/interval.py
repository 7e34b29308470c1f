"""How far a simulated time per output token may lie from the true one, by the residuals of its profile's tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from kvsim.experiments.decode.cells import Cell
from kvsim.profile.profile import SEGMENTS
from kvsim.profile.tables import CostTable

_DEVIATIONS = 1.645
"""Half of a 90% interval, in standard deviations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """How far one part of a step may lie below and above."""

    low_s: float
    high_s: float


def tpot_interval_s(cell: Cell, rows: Mapping[str, NDArray[Any]]) -> tuple[float, float]:
    """Return a 90% interval of the mean simulated time per output token; it need not be symmetric.

    A sample of calibration is one step, so what spreads samples shifts the steps of a run as well: the spread is
    taken as common to all steps of a run, besides the standard error of the table's medians. Parts of a measured
    profile are taken as independent of each other. Of one that was not measured, segments of the device err together,
    because errors of one card are of one sign, and launches by the host do: those are added up first.
    """
    counted = ~rows["is_warmup"]
    means_s = {name: float(column[counted].mean()) for name, column in rows.items() if name.endswith("_s")}
    groups = [_device(cell, means_s), _host(cell, means_s), _others(cell, means_s)]
    if cell.profile.kind != "measured":
        groups = [[_together(groups[0])], [_together(groups[1])], groups[2]]
    errors = [error for group in groups for error in group]
    low_s, high_s = (math.hypot(*side) for side in zip(*((one.low_s, one.high_s) for one in errors), strict=True))
    mean_s = means_s["step_s"]
    return max(mean_s - low_s, 0.0), mean_s + high_s


def _device(cell: Cell, means_s: Mapping[str, float]) -> list[Error]:
    return [_error(cell.profile.segments[name].device, means_s[f"{name}_s"]) for name in SEGMENTS]


def _host(cell: Cell, means_s: Mapping[str, float]) -> list[Error]:
    """Return the errors of launches: of the time that the device waits for the host, the shares that launches have."""
    hosts = {name: cost.host for name, cost in cell.profile.segments.items() if cost.host is not None}
    batch = cell.scenario.run.batch
    times_s = {
        name: table.at_s(0, sequences=batch) * (1 if name in ("embed", "head") else cell.shape.paged_layers)
        for name, table in hosts.items()
        if name in SEGMENTS
    }
    total_s = sum(times_s.values())
    waits_s = max(means_s["host_s"] - means_s["decide_s"] - means_s["sync_s"] - means_s["submit_s"], 0.0)
    share = min(waits_s / total_s, 1.0) if total_s else 0.0
    return [_error(hosts[name], time_s * share) for name, time_s in times_s.items()]


def _others(cell: Cell, means_s: Mapping[str, float]) -> list[Error]:
    """Return the errors of copies that are waited for, and of decisions."""
    profile = cell.profile
    own_errors = [_error(profile.link.to_device.transfer, means_s["stall_s"])]
    if not cell.holds_everything:
        own_errors.append(_error(profile.policies[profile.decision_cost(cell.cost_name)], means_s["decide_s"]))
    return own_errors


def _error(table: CostTable, time_s: float) -> Error:
    own = _DEVIATIONS * table.median_error_frac
    low_frac, high_frac = max(-table.residual_low_frac, 0.0), max(table.residual_high_frac, 0.0)
    return Error(low_s=time_s * math.hypot(low_frac, own), high_s=time_s * math.hypot(high_frac, own))


def _together(errors: Iterable[Error]) -> Error:
    parts = list(errors)
    return Error(low_s=sum(one.low_s for one in parts), high_s=sum(one.high_s for one in parts))
