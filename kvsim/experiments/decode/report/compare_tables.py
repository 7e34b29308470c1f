"""A comparison of decode for people: a row a cell, the error by part of the step, counts where they have errors."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from kvsim.experiments.decode.entry import value_of
from kvsim.experiments.decode.report.compare import OUTSIDE, PARTS, Comparison
from kvsim.experiments.decode.report.errors import median_abs
from kvsim.experiments.decode.report.targets import targets_of, verdict_lines
from kvsim.report.comparison import Compared, compared, side_columns
from kvsim.report.diagonal import Panel, diagonal_figure
from kvsim.report.sides import SIDES, side
from kvsim.report.tables import NOT_APPLICABLE, Column, percent, signed_percent, table_text

_MS, _MIB = 1e3, 2**20
_BAND_FRAC = 0.05

_KEYS = {
    "policy": Column(title="/policy"),
    "context_tokens": Column(title="/context"),
    "budget_pages": Column(title="/budget", text="{:.0f}".format),
    "page_tokens": Column(title="/page"),
    "batch": Column(title="/batch"),
}
_TIMES = {
    **_KEYS,
    **side_columns("tpot_s", "ms a token"),
    "tpot_error_frac": Column(title="/error", text=signed_percent),
    **side_columns("stall_frac", "stall", lambda value: percent(value, 0)),
}
_OUTSIDE = {
    **_KEYS,
    **side_columns("hit_frac", "hits", percent),
    "hit_error_points": Column(title="hits/points", text="{:+z.1f}".format),
    **side_columns("moved_bytes_per_token", "MiB a token", lambda value: f"{value / _MIB:.2f}"),
    **side_columns("tpot_s", "ms a token", lambda value: f"{value * _MS:.1f}"),
    "tpot_error_frac": Column(title="/error", text=signed_percent),
    "in_sample_error_frac": Column(title="error/in sample", text=signed_percent),
}


def compared_in_sample(comparison: Comparison) -> Compared:
    """Return a comparison as a command shows and keeps it, with a panel a policy."""
    targets = targets_of(comparison.figures)
    contents: dict[str, Any] = comparison.figures | {
        "cells": comparison.cells,
        "targets": [asdict(one) for one in targets],
    }
    lines = [compare_text(comparison)]
    if comparison.divergence is not None:
        contents |= {"divergence": str(comparison.divergence)}
        lines.append(f"first divergence: {comparison.divergence}")
    policies = dict.fromkeys(cell["policy"] for cell in comparison.cells)
    panels = [
        Panel(title=policy, name="tpot_s", cells=[cell for cell in comparison.cells if cell["policy"] == policy])
        for policy in policies
    ]
    title = "Time per output token: simulated against measured"
    figure = diagonal_figure(title, panels, color_by="policy", marker_by="context_tokens", band_frac=_BAND_FRAC)
    missed = tuple(target.name for target in targets if target.is_met is False)
    return replace(
        compared(contents, [*lines, *verdict_lines(comparison.figures)], comparison.cells, figure), missed=missed
    )


def compared_out_of_sample(comparison: Comparison, in_sample: Mapping[str, Any] | None = None) -> Compared:
    """Return a comparison out of sample; `in_sample` has the figures of one of the same cells, ``cells`` too."""
    contents = comparison.figures | {f"{OUTSIDE}accesses": comparison.accesses, f"{OUTSIDE}cells": comparison.cells}
    panels = [
        Panel(title="hits", name="hit_frac", cells=comparison.cells),
        Panel(title="time per output token", name="tpot_s", cells=comparison.cells),
    ]
    title = "Out of sample: simulated on other accesses than were measured"
    figure = diagonal_figure(title, panels, color_by="policy", band_frac=_BAND_FRAC)
    return compared(
        contents, [out_of_sample_text(comparison, in_sample)], comparison.cells, name="out_of_sample", figure=figure
    )


def compare_text(comparison: Comparison) -> str:
    """Return the cells as a printed table, then the median error of each part of a step."""
    cells = [
        {**cell, **{side("tpot_s", which): _range_ms(cell, which) for which in SIDES}} for cell in comparison.cells
    ]
    lines = ["", "simulated - measured by part of a step, of the measured time per token (median, worst):"]
    for part in PARTS:
        sides = [tuple(value_of(cell, side(part, which)) for which in reversed(SIDES)) for cell in comparison.cells]
        errors = [
            (sim_s - real_s) / cell["tpot_measured_s"]
            for (sim_s, real_s), cell in zip(sides, comparison.cells, strict=True)
        ]
        worst = max(errors, key=abs)
        lines.append(f"  {part[:-2]:<18}{signed_percent(float(np.median(errors)), 2):>8}{signed_percent(worst, 2):>9}")
    return "\n".join([table_text(cells, _TIMES), *lines, ""])


def _range_ms(cell: Mapping[str, Any], which: str) -> str:
    middle, low, high = (_MS * cell[side("tpot_s", f"{which}{end}")] for end in ("", "_low", "_high"))
    return f"{middle:.1f} ({low:.1f} .. {high:.1f})"


def out_of_sample_text(comparison: Comparison, in_sample: Mapping[str, Any] | None = None) -> str:
    """Return a row a cell, then the figures; `in_sample` as in `compared_out_of_sample`."""
    cells: list[dict[str, Any]] = [{**cell} for cell in comparison.cells]
    if in_sample:
        errors = {cell["cell"]: cell["tpot_error_frac"] for cell in in_sample["cells"]}
        cells = [cell | {"in_sample_error_frac": errors.get(cell["cell"])} for cell in cells]
    caption = (
        f"out of sample: simulated on accesses recorded with {' and '.join(comparison.texts) or 'another text'} "
        f"({', '.join(comparison.accesses) or 'no trace named'})"
    )
    parts = [*textwrap.wrap(caption, 120), "", table_text(cells, _OUTSIDE), "", *_error_lines(comparison, in_sample)]
    return "\n".join(parts)


def _error_lines(comparison: Comparison, in_sample: Mapping[str, Any] | None) -> list[str]:
    """Return the figures of a comparison out of sample, a line each, with those in sample where there are some."""
    inside = dict(in_sample or {})
    if in_sample:
        selecting = {cell["cell"] for cell in comparison.cells if cell["is_selecting"]}
        chosen = [cell for cell in in_sample["cells"] if cell["cell"] in selecting]
        inside["selecting_median_error_frac"] = median_abs(chosen, "tpot_error_frac")

    def error(name: str) -> str:
        more = f" (in sample: {percent(inside.get(name))})" if name in inside else ""
        return f"{percent(comparison.figures[f'{OUTSIDE}{name}'])}{more}"

    def points(name: str) -> str:
        value = comparison.figures[f"{OUTSIDE}{name}"]
        return NOT_APPLICABLE if value is None else f"{value:.1f} points"

    return [
        f"hits, median error in the cells that select: {points('hit_error_points')}, worst "
        f"{points('hit_worst_error_points')}",
        f"misses, median error there: {error('misses_median_error_frac')}; bytes moved: "
        f"{error('moved_median_error_frac')}",
        f"time per token, median error there: {error('selecting_median_error_frac')}",
        f"time per token, median error of all cells: {error('tpot_median_error_frac')}; worst: "
        f"{error('tpot_worst_error_frac')}",
        f"what the cache adds, median error in stalling cells: {error('added_median_error_frac')}",
    ]
