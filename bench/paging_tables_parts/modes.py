"""The baseline, reactive and predictive modes of one result, in the names that prefetching experiments use.

Milliseconds and percentages exist here and in `tables` only, made where they are written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvsim.errors import ResultError
from kvsim.report.results import RunResult

CONTEXT_KEYS = ("measure.prompt_tokens", "trace.extrapolate.context_tokens")
"""Swept fields that say how long the context is."""

Cell = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """The cells of a result by mode, setting and context.

    A mode is a policy. A *setting* is one combination of all that is swept but the context: what the modes attend to,
    and the budget of those that page.
    """

    name: str
    profile: str
    is_measured: bool
    is_emulated: bool
    num_runs: int
    num_tokens: int
    """Counted tokens of each sequence in a run: what a latency is the time of."""
    duration_s: float
    """Time of all steps of all runs, warm-up and instrumented run included, prefill not."""
    setting_keys: tuple[str, ...]
    cells: tuple[Cell, ...]
    """Of ``summary.json``, each with ``setting``, ``context``, ``latency_s`` and ``range_s``.

    Measured, these are the median and the extremes of the runs; simulated, the mean and its 90% interval.
    """
    baseline: str

    @property
    def modes(self) -> list[str]:
        """The policies, the baseline first."""
        return list(dict.fromkeys([self.baseline, *(cell["policy"] for cell in self.cells)]))

    @property
    def settings(self) -> list[tuple[Any, ...]]:
        """The settings, in the scenario's order."""
        return list(dict.fromkeys(cell["setting"] for cell in self.cells))

    def of(self, setting: tuple[Any, ...] | None = None, mode: str | None = None) -> list[Cell]:
        """Return the cells of a setting and of a mode, or of all."""
        return [
            cell
            for cell in self.cells
            if (setting is None or cell["setting"] == setting) and (mode is None or cell["policy"] == mode)
        ]

    def cell(self, setting: tuple[Any, ...], context: int, mode: str) -> Cell:
        """Return one cell."""
        return next(cell for cell in self.of(setting, mode) if cell["context"] == context)

    def twin(self, cell: Cell) -> Cell:
        """Return the baseline of the same setting and context: the same attention with every page on the device."""
        return self.cell(cell["setting"], cell["context"], self.baseline)

    def dense(self, cell: Cell) -> Cell | None:
        """Return a baseline of the same context that attends to everything, None where the result has none."""
        found = (other for other in self.of(mode=self.baseline) if other["context"] == cell["context"])
        return next((other for other in (self.twin(cell), *found) if other["selector"] == "full"), None)


def experiment_of(result: RunResult) -> Experiment:
    """Return the experiment that a measured or simulated result is.

    Raises
    ------
    ResultError
        If it has not exactly one policy that keeps everything, or one trace was replayed for several contexts.
    """
    summary, rows = result.summary, result.rows
    whole = list(dict.fromkeys(cell["policy"] for cell in summary["cells"] if cell["budget_pages"] is None))
    if len(whole) != 1:
        raise ResultError(
            f"{summary['scenario']}: an experiment compares with one policy that keeps everything, as `resident` does; "
            f"found {' and '.join(whole) or 'none'}"
        )
    counted = (rows["cell"] == 0) & ~rows["is_warmup"]
    num_tokens = int(np.unique(rows["step"][counted]).size)
    context_key = next((key for key in CONTEXT_KEYS if key in summary["swept"]), None)
    keys = tuple(key for key in summary["swept"] if key != context_key)
    cells = tuple(_cell(cell, keys, context_key, num_tokens) for cell in summary["cells"])
    if len({cell["context"] for cell in cells}) > len({cell["context_tokens"] for cell in cells}):
        raise ResultError(
            f"{summary['scenario']}: one trace was replayed for every context; measure it (`kvsim measure`), or replay "
            "what was measured (`kvsim run --trace`)"
        )
    return Experiment(
        name=summary["scenario"],
        profile=summary["profile"]["name"],
        is_measured=bool(summary.get("is_measured")),
        is_emulated=bool(summary["profile"]["emulated_link"]),
        num_runs=len(summary["cells"][0].get("tpot_repeats_s", ())) or int(np.unique(rows["repetition"]).size),
        num_tokens=num_tokens,
        duration_s=float(rows["step_s"].sum()),
        setting_keys=keys,
        cells=cells,
        baseline=whole[0],
    )


def _cell(cell: Cell, keys: Sequence[str], context_key: str | None, num_tokens: int) -> dict[str, Any]:
    repeats_s = cell.get("tpot_repeats_s")
    middle_s = cell["tpot_mean_s"] if repeats_s is None else float(np.median(repeats_s))
    range_s = repeats_s or cell.get("tpot_interval_s") or [middle_s]
    return dict(cell) | {
        "setting": tuple(cell[key] for key in keys),
        "context": cell[context_key] if context_key else cell["context_tokens"],
        "latency_s": middle_s * num_tokens,
        "range_s": (min(range_s) * num_tokens, max(range_s) * num_tokens),
    }


def pooled(cells: Sequence[Cell]) -> dict[str, float | int | None]:
    """Return the figures of several cells of one mode: means of times, ratios of summed counts.

    ``mispredicted_frac`` is ``wasted / (used + wasted)``; a ratio over nothing is None.
    """
    latency_s = sum(cell["latency_s"] for cell in cells)
    total = {
        name: sum(int(cell[name]) for cell in cells) for name in ("hits", "misses", "prefetched", "used", "wasted")
    }
    is_paged = any(cell["budget_pages"] is not None for cell in cells)
    stalled_s = sum((cell["stall_frac"] or 0.0) * cell["latency_s"] for cell in cells)
    recalls = [cell["mass_recall_frac"] for cell in cells]
    return total | {
        "latency_s": latency_s / len(cells),
        "tokens_per_s": sum(cell["tokens_per_s"] for cell in cells) / len(cells),
        "stall_frac": stalled_s / latency_s,
        "hit_frac": _ratio(total["hits"], total["hits"] + total["misses"]) if is_paged else None,
        "precision_frac": _ratio(total["used"], total["used"] + total["wasted"]),
        "recall_frac": _ratio(total["used"], total["used"] + total["misses"]) if total["prefetched"] else None,
        "mispredicted_frac": _ratio(total["wasted"], total["used"] + total["wasted"]),
        "mass_recall_frac": None if None in recalls else sum(recalls) / len(recalls),
    }


def saved_frac(latency_s: float, baseline_s: float) -> float:
    """Return the share of the baseline's latency that is saved; negative where slower.

    Examples
    --------
    >>> saved_frac(0.75, 1.0), saved_frac(1.5, 1.0)
    (0.25, -0.5)
    """
    return 1 - latency_s / baseline_s


def outcomes(experiment: Experiment) -> dict[str, list[Cell]]:
    """Return the paged cells that are ``faster`` and ``slower`` than their baselines, and those where runs overlap."""
    found: dict[str, list[Cell]] = {"faster": [], "slower": [], "neither": []}
    for cell in experiment.cells:
        if cell["policy"] == experiment.baseline:
            continue
        (low_s, high_s), (base_low_s, base_high_s) = cell["range_s"], experiment.twin(cell)["range_s"]
        found["faster" if high_s < base_low_s else "slower" if low_s > base_high_s else "neither"].append(cell)
    return found


def experiment_summary(experiment: Experiment) -> dict[str, Any]:
    """Return ``experiment_summary.json``: all cells first, then each setting and each context of it by themselves."""
    parts = []
    for setting in experiment.settings:
        named = dict(zip(experiment.setting_keys, setting, strict=True))
        cells = experiment.of(setting)
        contexts = list(dict.fromkeys(cell["context"] for cell in cells))
        by_context = {
            str(context): _analysis(experiment, [cell for cell in cells if cell["context"] == context])
            for context in contexts
        }
        parts.append({"setting": named} | _analysis(experiment, cells) | {"by_context_tokens": by_context})
    found = outcomes(experiment)
    return {
        "experiment_summary": {
            "total_experiments": len(experiment.cells),
            "successful_experiments": len(experiment.cells),
            "total_duration_seconds": experiment.duration_s,
            "measured": experiment.is_measured,
            "emulated_link": experiment.is_emulated,
            "runs": experiment.num_runs,
            "new_tokens": experiment.num_tokens,
            "paged_cells": {name: len(cells) for name, cells in found.items()},
        },
        **_analysis(experiment, experiment.cells),
        "settings": parts,
    }


def _analysis(experiment: Experiment, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return ``mode_summaries`` and ``comparative_analysis`` of some cells, each paged one against its baseline."""
    figures = {mode: pooled([cell for cell in cells if cell["policy"] == mode]) for mode in experiment.modes}
    base: dict[str, Any] = figures[experiment.baseline]
    return {
        "mode_summaries": {mode: _mode_summary(found) for mode, found in figures.items()},
        "comparative_analysis": {
            mode: {
                "latency_speedup_percent": 100 * saved_frac(found["latency_s"], base["latency_s"]),
                "throughput_speedup_percent": 100 * (found["tokens_per_s"] / base["tokens_per_s"] - 1),
            }
            for mode, found in dict[str, Any](figures).items()
            if mode != experiment.baseline
        },
    }


def _mode_summary(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "average_latency_ms": found["latency_s"] * 1e3,
        "average_tokens_per_second": found["tokens_per_s"],
        "average_stall_percent": 100 * found["stall_frac"],
        "average_cache_hit_rate": found["hit_frac"],
        "average_prediction_accuracy": found["precision_frac"],
        "average_prefetch_hit_rate": found["recall_frac"],
        "misprediction_cost": found["mispredicted_frac"],
        "attention_recall": found["mass_recall_frac"],
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
