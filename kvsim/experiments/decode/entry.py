"""The cells of ``summary.json`` and of a comparison as types: built once, read by name in tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict


class DeviceParts(TypedDict):
    """Bytes of one device by part; of several devices, those of the fullest."""

    kv_device_bytes: int
    weights_bytes: int
    activation_bytes: int
    summary_bytes: int


class DeviceRow(DeviceParts):
    """One device of a cell."""

    device: int
    """Its place in the row of devices."""
    layers: int
    pages: int
    """Slots of its budget."""
    device_bytes: int
    fits: bool


class RowFigures(TypedDict):
    """What the counted steps of a cell come to; None of what does not apply."""

    tpot_p50_s: float
    """Time per output token."""
    tpot_p95_s: float
    tpot_mean_s: float
    tokens_per_s: float
    """Of all sequences."""
    stall_frac: float | None
    """Of the time, in which compute waits for pages."""
    hit_frac: float | None
    """Of the selected pages."""
    prefetch_precision_frac: float | None
    prefetch_recall_frac: float | None
    moved_bytes: int
    moved_bytes_per_token: float
    mass_recall_frac: float | None
    """Of full attention's mass, in the pages that were read."""
    hits: int
    misses: int
    late: int
    prefetched: int
    used: int
    wasted: int
    digest: int
    """Of all decisions, warm-up included."""


class MeasuredFigures(TypedDict):
    """What only a measurement knows of a cell."""

    tpot_repeats_s: list[float]
    instrument_overhead_frac: float
    kl_mean_nats: float | None
    greedy_agreement_frac: float | None


class Entry(RowFigures, DeviceParts):
    """A cell; the swept fields stand in it too, by their dotted names (`value_of`)."""

    policy: str
    budget_pages: int | None
    """Slots of all devices; None where everything is kept on them."""
    context_tokens: int
    batch: int
    page_tokens: int
    selector: str
    device_bytes: int
    fits: bool
    devices: NotRequired[list[DeviceRow]]
    """Where layers lie on several."""
    page_link_s: float
    """Of one page over the link at its full bandwidth."""
    host_bytes: int
    is_bound: NotRequired[bool]
    """Whether the policy sees the future."""
    speed_vs_resident: NotRequired[float | None]
    tpot_interval_s: NotRequired[list[float]]
    """Low and high end, of a simulated cell."""
    recall_bias_frac: NotRequired[float | None]
    """Of generated accesses: their attention recall less the trace's."""


class MeasuredEntry(Entry, MeasuredFigures):
    """A measured cell."""


class ComparedCell(TypedDict):
    """A cell simulated and measured, with its errors; the swept fields stand in it too.

    Each part of a step has two figures more, as ``attention_simulated_s`` and ``attention_measured_s``. An error is
    simulated / measured - 1; None of what does not apply.
    """

    cell: int
    """Its number in the measured result."""
    policy: str
    budget_pages: int | None
    context_tokens: int
    batch: int
    page_tokens: int
    tpot_simulated_s: float
    tpot_simulated_low_s: float
    tpot_simulated_high_s: float
    tpot_measured_s: float
    """Median over repeats."""
    tpot_measured_low_s: float
    tpot_measured_high_s: float
    tpot_error_frac: float
    is_within_spread: bool
    """Whether the simulated time lies between the repeats."""
    is_in_interval: bool
    """Whether the measured time lies in the simulated interval."""
    stall_simulated_frac: float | None
    stall_measured_frac: float | None
    late_simulated: int
    late_measured: int
    instrument_overhead_frac: float
    mass_recall_frac: float | None
    link_s: float
    """Of the misses of a step, over the link at its full bandwidth."""
    added_simulated_s: float | None
    """To the resident cell of the same situation."""
    added_measured_s: float | None
    added_error_frac: float | None
    null_resident_error_frac: float | None
    """Of predicting the resident cell's time."""
    null_link_error_frac: float | None
    null_additive_error_frac: float | None
    is_selecting: NotRequired[bool]
    """Out of sample, as what follows: whether counts depend on the accesses."""
    hit_error_points: NotRequired[float | None]
    misses_error_frac: NotRequired[float | None]
    moved_bytes_per_token_error_frac: NotRequired[float | None]


def value_of(cell: Mapping[str, Any], key: str) -> Any:
    """Return a field whose name is known only at run time, as a swept one."""
    return cell[key]
