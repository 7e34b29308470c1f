"""An experiment for people: the tables that prefetching experiments print, and their picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from kvsim.report.style import add_panels, legend_above, new_figure, policy_looks
from kvsim.report.tables import aligned
from paging_tables_parts.modes import Cell, Experiment, outcomes, pooled, saved_frac

_MS, _MB = 1e3, 1e-6

LEGEND = (
    "Latency: time of the counted tokens, mean over contexts, prefill apart. Speedup: share of the latency saved "
    "against the baseline that attends to the same pages; negative is slower. vs full: the same against the baseline "
    "that attends to everything. Stall: share of the time in which compute waits for pages. Hit rate: selected pages "
    "that were on the device. Mispred cost: share of prefetched pages that left unread. Mass: attention mass of the "
    "pages that were read. -: does not apply."
)


def experiment_text(experiment: Experiment, *, width: int = 120) -> str:
    """Return the tables of an experiment: modes, contexts, memory, prediction; then what came of it."""
    how = "measured" if experiment.is_measured else "simulated"
    link = ", emulated link" if experiment.is_emulated else ""
    runs = f"{experiment.num_runs} run{'' if experiment.num_runs == 1 else 's'}"
    caption = (
        f"{experiment.name}: {how} with {experiment.profile}{link}; {runs} of {experiment.num_tokens} counted tokens"
    )
    found = outcomes(experiment)
    counts = {name: len(cells) for name, cells in found.items()}
    closing = (
        f"Of {sum(counts.values())} paged cells, {counts['faster']} are faster than the baseline of equal attention by "
        f"more than the runs' spread, {counts['slower']} slower, {counts['neither']} neither."
    )
    parts = [
        textwrap.fill(caption, width),
        _modes_table(experiment),
        textwrap.fill(LEGEND, width),
        _contexts_table(experiment),
        _memory_table(experiment),
        _prediction_table(experiment),
        textwrap.fill(closing, width),
    ]
    return "\n\n".join(parts)


def setting_text(experiment: Experiment, setting: Sequence[Any]) -> str:
    """Return a setting in words, as in ``selector full, 8 pages per layer``."""
    words = []
    for key, value in zip(experiment.setting_keys, setting, strict=True):
        name = _word(key)
        words.append(f"{value} {name}" if name.startswith("pages") else f"{name} {value}")
    return ", ".join(words)


def _word(key: str) -> str:
    """Return a swept field in words; a name is called by its table."""
    table, _, field = key.rpartition(".")
    return table if field == "name" else field.replace("_", " ")


def _modes_table(experiment: Experiment) -> str:
    titles = ["Strategy", "Latency (ms)", "Speedup %", "Stall %", "Hit Rate %", "Mispred Cost", "vs full %", "Mass %"]
    rows: list[list[str]] = []
    for setting in experiment.settings:
        rows.append([_heading(experiment, setting)])
        for mode in experiment.modes:
            cells = experiment.of(setting, mode)
            found: dict[str, Any] = pooled(cells)
            base = [experiment.twin(cell)["latency_s"] for cell in cells]
            dense = [other["latency_s"] for cell in cells if (other := experiment.dense(cell)) is not None]
            against_dense = (
                saved_frac(found["latency_s"] * len(cells), sum(dense)) if len(dense) == len(cells) else None
            )
            rows.append(
                [
                    f"  {mode}",
                    f"{found['latency_s'] * _MS:.1f}",
                    _signed(saved_frac(found["latency_s"] * len(cells), sum(base))),
                    *(_percent(found[name]) for name in ("stall_frac", "hit_frac", "mispredicted_frac")),
                    _signed(against_dense),
                    _percent(found["mass_recall_frac"]),
                ]
            )
    return "\n".join(aligned([titles, *rows]))


def _contexts_table(experiment: Experiment) -> str:
    paged = experiment.modes[1:]
    titles = ["Context", *(f"{mode} (ms)" for mode in experiment.modes), *(f"{mode} speedup %" for mode in paged)]
    rows: list[list[str]] = []
    for setting in experiment.settings:
        rows.append([_heading(experiment, setting)])
        for context in _contexts(experiment, setting):
            cells = [experiment.cell(setting, context, mode) for mode in experiment.modes]
            speedups = [_signed(saved_frac(cell["latency_s"], cells[0]["latency_s"])) for cell in cells[1:]]
            rows.append([f"  {context:,} tokens", *(_range_ms(cell) for cell in cells), *speedups])
    return "\n".join(aligned([titles, *rows]))


def _memory_table(experiment: Experiment) -> str:
    """Return the memory at the longest context of each setting."""
    titles = ["Strategy", "Device (MB)", "of it KV (MB)", "KV saved", "Device saved", "Host (MB)", "Cache Pages"]
    rows: list[list[str]] = []
    for setting in experiment.settings:
        context = max(_contexts(experiment, setting))
        rows.append([f"{setting_text(experiment, setting)}: {context:,} tokens"])
        for mode in experiment.modes:
            cell = experiment.cell(setting, context, mode)
            base = experiment.twin(cell)
            rows.append(
                [
                    f"  {mode}",
                    *(f"{cell[name] * _MB:.1f}" for name in ("device_bytes", "kv_device_bytes")),
                    *(_percent(saved_frac(cell[name], base[name])) for name in ("kv_device_bytes", "device_bytes")),
                    f"{cell['host_bytes'] * _MB:.1f}",
                    "N/A" if cell["budget_pages"] is None else str(cell["budget_pages"]),
                ]
            )
    return "\n".join(aligned([titles, *rows]))


def _prediction_table(experiment: Experiment) -> str:
    """Return what became of prefetched pages: each that was read or left unread in the counted steps.

    Some were fetched in the warm-up and unread when counting began: the pages fetched in the counted steps alone would
    be fewer than those used and wasted.
    """
    titles = ["Prefetching", "Prefetched", "Used", "Wasted", "Accuracy %", "Prefetch Hit %", "Wasted MB/token"]
    rows: list[list[str]] = []
    for setting in experiment.settings:
        cells = [cell for cell in experiment.of(setting) if cell["used"] + cell["wasted"]]
        if not cells:
            continue
        rows.append([setting_text(experiment, setting)])
        for cell in cells:
            found = pooled([cell])
            wasted_bytes = cell["wasted"] * cell["kv_device_bytes"] / cell["budget_pages"]
            rows.append(
                [
                    f"  {cell['policy']}, {cell['context']:,} tokens",
                    *map(str, (cell["used"] + cell["wasted"], cell["used"], cell["wasted"])),
                    _percent(found["precision_frac"]),
                    _percent(found["recall_frac"]),
                    f"{wasted_bytes * _MB / (experiment.num_tokens * cell['batch']):.2f}",
                ]
            )
    return "\n".join(aligned([titles, *rows])) if rows else "Prefetching: no mode prefetched a page."


def experiment_figure(experiment: Experiment) -> Figure:
    """Return latency, speedup, stall and hits of every mode, a group of bars for each setting and context."""
    situations = [(setting, context) for setting in experiment.settings for context in _contexts(experiment, setting)]
    foot = (
        "Below each group: tokens of context, then "
        + (", ".join(map(_word, experiment.setting_keys)) or "nothing")
        + ". Lines span the runs. Speedup: against the baseline of equal attention; below zero is slower."
    )
    how = "measured" if experiment.is_measured else "simulated"
    figure = new_figure(7.6, f"{experiment.name}, {how}: keeping everything against paging", foot)
    (latency, speedup), (stall, hits) = add_panels(figure, 2, 2)
    looks = policy_looks(experiment.modes)
    handles: dict[str, Any] = {}
    width = 0.8 / len(experiment.modes)
    for number, mode in enumerate(experiment.modes):
        cells = [experiment.cell(setting, context, mode) for setting, context in situations]
        bases = [experiment.twin(cell)["latency_s"] for cell in cells]
        at = [place + (number - (len(experiment.modes) - 1) / 2) * width for place in range(len(cells))]
        bar: dict[str, Any] = {"width": width, "color": looks[mode]["color"]}
        heights_ms = [cell["latency_s"] * _MS for cell in cells]
        handles[mode] = latency.bar(at, heights_ms, **bar)
        ends_ms = [(cell["range_s"][0] * _MS, cell["range_s"][1] * _MS) for cell in cells]
        latency.vlines(at, [low for low, _ in ends_ms], [high for _, high in ends_ms], color="black", linewidth=1)
        speedups = [100 * saved_frac(cell["latency_s"], base) for cell, base in zip(cells, bases, strict=True)]
        speedup.bar(at, speedups, **bar)
        stall.bar(at, [100 * (cell["stall_frac"] or 0.0) for cell in cells], **bar)
        hits.bar(at, [100 * (cell["hit_frac"] or 0.0) for cell in cells], **bar)
    labels = [f"{context:,}\n{', '.join(map(str, setting))}" for setting, context in situations]
    latency.set_ylabel(f"latency of {experiment.num_tokens} tokens (ms)")
    speedup.set_ylabel("speedup (%)")
    stall.set_ylabel("stall (% of the time)")
    hits.set_ylabel("hit rate (% of selected pages)")
    speedup.axhline(0, color="black", linewidth=1)
    for axis in (latency, speedup, stall, hits):
        axis.set_xticks(range(len(labels)), labels, fontsize=8)
        axis.grid(axis="x", visible=False)
    legend_above(figure, handles)
    return figure


def _contexts(experiment: Experiment, setting: tuple[Any, ...]) -> list[int]:
    return list(dict.fromkeys(cell["context"] for cell in experiment.of(setting)))


def _heading(experiment: Experiment, setting: tuple[Any, ...]) -> str:
    contexts = ", ".join(f"{context:,}" for context in _contexts(experiment, setting))
    return f"{setting_text(experiment, setting)}: {contexts} tokens".removeprefix(": ")


def _range_ms(cell: Cell) -> str:
    low_s, high_s = cell["range_s"]
    return f"{cell['latency_s'] * _MS:.1f} ({low_s * _MS:.0f}..{high_s * _MS:.0f})"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def _signed(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction + 0.0:+.1f}"
