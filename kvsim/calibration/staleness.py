"""Whether a profile still holds on this machine: what it says of itself, and a few of its costs timed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from kvsim.calibration.machine import describe_machine
from kvsim.calibration.spot_check import spot_samples
from kvsim.calibration.timers import Neighbours
from kvsim.profile.profile import Machine, Profile
from kvsim.profile.tables import CostTable
from kvsim.scenario.shapes import ModelShape

MAX_AGE_DAYS = 30
"""A profile older than that is measured anew: drivers, firmware and neighbours change without a version."""

MIN_TOLERANCE_FRAC = 0.1
"""A median within so much of the table holds, however narrow the profile's own residuals: machines drift by that."""

MIN_SHARE = 0.05
"""Costs that make up less of a step are not worth a calibration."""

_NOT_MEASURED = "its costs are {} figures, not measured here"

_BUSY_FRAC = 0.2
"""Share of a processor that other programs may use without a word."""

_VERSIONS = ("torch", "transformers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """One cost of a profile timed again."""

    cost: str
    expected_s: float
    measured_s: float
    low_frac: float
    """How much shorter than the table one sample may be: the profile's residuals, `MIN_TOLERANCE_FRAC` at least."""
    high_frac: float
    share: float
    """Of the step that was timed, as the profile has it; 1 for a copy."""

    @property
    def error_frac(self) -> float:
        """How much longer it takes than the profile says."""
        return self.measured_s / self.expected_s - 1

    @property
    def is_off(self) -> bool:
        """Whether the profile does not hold for this cost."""
        return self.share >= MIN_SHARE and not self.low_frac <= self.error_frac <= self.high_frac

    def __str__(self) -> str:
        """Return what is off, as part of a line."""
        return (
            f"{self.cost} takes {1 + self.error_frac:.2f} times what it says "
            f"({1 + self.low_frac:.2f} to {1 + self.high_frac:.2f} would do)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether to calibrate, and why."""

    is_stale: bool
    line: str


def judge(profile: Profile, shape: ModelShape, model: Path | str) -> Verdict:
    """Return whether `profile` holds here for `model` of `shape`, with one line that says why.

    What the profile says of itself decides first; only where nothing speaks against it, some of its costs are timed
    again, which takes some ten seconds.

    Raises
    ------
    KvsimError
        If the model cannot be loaded.
    """
    reasons = reasons_here(profile, shape)
    if reasons:
        return Verdict(is_stale=True, line=f"profile {profile.name} is stale: {'; '.join(reasons)}")
    neighbours = Neighbours()
    spots = spots_of(profile, spot_samples(profile, model))
    return verdict_of(profile.name, spots, neighbours.busy_frac())


def reasons_here(profile: Profile, shape: ModelShape) -> list[str]:
    """Return `stale_reasons` for this machine."""
    if profile.kind != "measured":
        return [_NOT_MEASURED.format(profile.kind)]
    if profile.device == "cuda" and not torch.cuda.is_available():
        return [f"it was measured on {profile.machine.device}, torch sees no GPU here"]
    machine = describe_machine(device=profile.device, num_threads=profile.machine.num_threads, command="")
    return stale_reasons(profile, shape, machine)


def verdict_of(name: str, spots: Sequence[Spot], busy_frac: float) -> Verdict:
    """Return what costs timed again say of a profile; `busy_frac`: how much of a processor other programs used."""
    off = sorted((spot for spot in spots if spot.is_off), key=lambda spot: -abs(spot.error_frac))
    if not off:
        worst_frac = max(abs(spot.error_frac) for spot in spots if spot.share >= MIN_SHARE)
        line = f"profile {name} holds: {len(spots)} costs timed again lie within {worst_frac:.0%} of it"
        return Verdict(is_stale=False, line=line)
    reasons_text = "; ".join(map(str, off[:2])) + (f"; {len(off) - 2} more off" if len(off) > 2 else "")
    busy = f"; other programs used {busy_frac:.0%} of a processor meanwhile" if busy_frac >= _BUSY_FRAC else ""
    return Verdict(is_stale=True, line=f"profile {name} is stale: {reasons_text}{busy}")


def stale_reasons(profile: Profile, shape: ModelShape, machine: Machine, *, today: datetime | None = None) -> list[str]:
    """Return what speaks against using `profile` for `shape` on `machine`, without measuring anything."""
    if profile.kind != "measured":
        return [_NOT_MEASURED.format(profile.kind)]
    made = profile.machine
    reasons = []
    if made.device != machine.device or made.processor != machine.processor:
        reasons.append(f"it was measured on {made.device}, this is {machine.device}")
    if made.driver != machine.driver:
        reasons.append(f"the driver was {made.driver}, it is {machine.driver}")
    if _minor(made.python) != _minor(machine.python):
        reasons.append(f"Python was {_minor(made.python)}, it is {_minor(machine.python)}")
    for name in _VERSIONS:
        then, now = made.versions.get(name), machine.versions.get(name)
        if then != now:
            reasons.append(f"{name} was {then or 'not noted'}, it is {now or 'missing'}")
    if profile.shape != shape:
        reasons.append(
            f"it is for {profile.shape.num_layers} layers of {profile.shape.hidden_size} in {profile.shape.dtype}, the "
            f"model has {shape.num_layers} of {shape.hidden_size} in {shape.dtype}"
        )
    if made.kernels != machine.kernels:
        reasons_text = (
            "the engine's code has changed since" if made.kernels else "it does not say which engine code it timed"
        )
        reasons.append(reasons_text)
    age_days = ((today or datetime.now(UTC)) - datetime.fromisoformat(made.date)).days
    if age_days > MAX_AGE_DAYS:
        reasons.append(f"it is {age_days} days old")
    return reasons


def spots_of(profile: Profile, samples: dict[str, list[tuple[float, float, float]]]) -> list[Spot]:
    """Return what new samples say of a profile's costs; `samples` are (amount, batch, seconds) by table name."""
    layers = profile.shape.num_layers
    tables = {name: table for name, table in profile.tables().items() if name in samples}
    expected = {name: _expected_s(table, samples[name]) for name, table in tables.items()}
    in_step_s = {
        name: expected_s * (1 if name in ("segments.embed", "segments.head") else layers)
        for name, expected_s in expected.items()
        if name.startswith("segments.")
    }
    step_s = sum(in_step_s.values())
    spots = []
    for name, table in tables.items():
        if expected[name] <= 0:
            continue
        spots.append(
            Spot(
                cost=name.removeprefix("segments."),
                expected_s=expected[name],
                measured_s=float(np.median([time_s for _, _, time_s in samples[name]])),
                low_frac=min(table.residual_low_frac, -MIN_TOLERANCE_FRAC),
                high_frac=max(table.residual_high_frac, MIN_TOLERANCE_FRAC),
                share=in_step_s[name] / step_s if name in in_step_s else 1.0,
            )
        )
    return spots


def _expected_s(table: CostTable, samples: Sequence[tuple[float, float, float]]) -> float:
    return float(np.median([table.point_s(amount, column) for amount, column, _ in samples]))


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
