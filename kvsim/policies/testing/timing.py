"""Times a policy's own decisions on this machine, for profiles that do not know what it costs."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kvsim.errors import CalibrationError
from kvsim.policies import cost_name, find_policy, make_policy
from kvsim.policies.residency import Decision
from kvsim.policies.testing.conformance import policy_for
from kvsim.policies.testing.driving import MadeAccesses, drive, setting_for
from kvsim.profile.profile import Profile
from kvsim.profile.tables import CostTable

NUM_LAYERS = 30
PAGES_SELECTED = (6, 18, 48, 96)
PAGES_PER_LAYER = (24, 64, 160, 400)
"""The grid: pages that one decision selects, and pages of each of `NUM_LAYERS` layers."""
HELD_FRAC = 0.9
"""Slots over pages: a few of a selection are missing, as where a budget is chosen well. As calibration has it."""
WARMUP_STEPS, TIMED_STEPS = 3, 7
CACHE_BYTES = 16 * 2**20
"""Memory that is written between two decisions, as the work of a layer does: what a policy keeps is not at hand."""

_Sample = tuple[float, float, float]


def time_decisions(
    name: str,
    arguments: Mapping[str, Any],
    *,
    quick: bool = False,
    progress: Callable[[float], None] | None = None,
) -> tuple[str, CostTable]:
    """Return what a profile calls the decisions of a policy, and their times over the grid.

    Timed is what the engine does with a decision, as `calibrate` times it inside the engine: the policy's own code and
    the books. A sample is the mean over the layers of a step. Between two decisions a block of memory is written, so
    that caches are as cold as in a run.

    Parameters
    ----------
    quick
        Time the two smallest sizes of each axis only.

    Raises
    ------
    ScenarioError
        If there is no such policy, or it does not take the arguments.
    CalibrationError
        If the policy is never asked for a decision.
    """
    name, arguments = policy_for(name, arguments)
    kind = find_policy(name)
    if kind.holds == "everything":
        raise CalibrationError(f"policy {name!r} keeps everything and is never asked: a decision of it costs nothing")
    everything = kind.attends == "everything"
    layers = PAGES_PER_LAYER[:2] if quick else PAGES_PER_LAYER
    points = [
        (selected, pages)
        for pages in layers
        for selected in ([pages] if everything else PAGES_SELECTED[:2] if quick else PAGES_SELECTED)
        if selected <= 0.75 * pages or everything
    ]
    samples: list[_Sample] = []
    for selected, pages in points:
        samples += _samples_at(name, arguments, selected, pages, everything=everything)
        if progress is not None:
            progress(1 / len(points))
    source = f"kvsim policy time {name} on {platform.node()} ({platform.machine()}), {time.strftime('%Y-%m-%d')}"
    return cost_name(name, arguments), fit_decisions(samples, everything=everything, source=source)


def fit_decisions(samples: Sequence[_Sample], *, everything: bool, source: str) -> CostTable:
    """Return the table through the medians of (pages selected, pages of the grid, seconds).

    More pages selected never cost less; a point of the grid that cannot be, more pages selected than there are, takes
    the time of fewer. A policy that reads everything has one column: pages selected say all.

    Examples
    --------
    >>> fit_decisions([(6, 90, 2e-6), (6, 90, 4e-6), (9, 90, 1e-6)], everything=False, source="here").time_s
    ((3e-06,), (3e-06,))
    """
    rows = np.array(samples, dtype=np.float64)
    if everything:
        rows[:, 1] = 1.0
    amounts, columns = np.unique(rows[:, 0]), np.unique(rows[:, 1])
    medians = np.full((amounts.size, columns.size), np.nan)
    for place, amount in enumerate(amounts):
        for column, grid_pages in enumerate(columns):
            here = rows[(rows[:, 0] == amount) & (rows[:, 1] == grid_pages), 2]
            medians[place, column] = np.median(here) if here.size else np.nan
    fitted = np.fmax.accumulate(medians, axis=0)
    at_samples = fitted[np.searchsorted(amounts, rows[:, 0]), np.searchsorted(columns, rows[:, 1])]
    low, high = np.quantile(rows[:, 2] / at_samples - 1, (0.05, 0.95))
    return CostTable(
        amount="pages",
        amounts=tuple(amounts.tolist()),
        columns_are="none" if everything else "grid_pages",
        columns=tuple(columns.tolist()),
        time_s=tuple(tuple(row) for row in fitted.tolist()),
        residual_low_frac=float(low),
        residual_high_frac=float(high),
        num_samples=len(samples),
        samples=tuple(tuple(row) for row in rows.tolist()),
        source=source,
    )


def with_decisions(profile: Profile, name: str, table: CostTable) -> Profile:
    """Return `profile` with the cost of a policy's decisions, a former one of that name replaced."""
    return profile.model_copy(update={"policies": {**profile.policies, name: table}})


def _samples_at(
    name: str, arguments: Mapping[str, Any], selected: int, pages: int, *, everything: bool
) -> list[_Sample]:
    accesses = MadeAccesses(
        num_steps=WARMUP_STEPS + TIMED_STEPS,
        num_layers=NUM_LAYERS,
        num_sequences=1,
        pages_per_layer=pages,
        k_pages=selected,
        everything=everything,
        seed=0,
    )
    setting = setting_for(
        accesses,
        capacity_pages=max(selected * NUM_LAYERS, round((0.5 if everything else HELD_FRAC) * accesses.grid.num_pages)),
        partition="shared",
        quota_pages=2,
        seed=0,
    )
    block = np.zeros(CACHE_BYTES, dtype=np.uint8)
    times_s: list[float] = []

    def timed(call: Callable[[], Decision]) -> Decision:
        block[:] = 1
        started_s = time.perf_counter()
        decision = call()
        times_s.append(time.perf_counter() - started_s)
        return decision

    for _ in drive(make_policy(name, setting, arguments), setting, accesses, around=timed):
        pass
    steps_s = np.array(times_s).reshape(-1, NUM_LAYERS)[WARMUP_STEPS:].mean(axis=1)
    return [(float(selected), float(accesses.grid.num_pages), time_s) for time_s in steps_s.tolist()]
