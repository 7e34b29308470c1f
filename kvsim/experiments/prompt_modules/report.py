"""Reports results of prompt modules: columns of cells and prompts, a picture, and the verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kvsim.errors import ResultError
from kvsim.experiments.prompt_modules.cell import ModulesCell, PromptEntry
from kvsim.experiments.prompt_modules.costs import COUNTED, prompt_key
from kvsim.report.comparison import PROCESSOR_NOTE, Compared, Comparison, Fields, side_by_side
from kvsim.report.results import RunResult
from kvsim.report.style import PALETTE, add_panels, legend_above, new_figure, png, policy_looks
from kvsim.report.tables import Column, percent, result_text, signed_percent, table_text
from kvsim.units import format_bytes, format_seconds


def _yes(value: bool) -> str:
    return "yes" if value else "no"


_PROMPT_ERRORS = {
    "ttft": "time to first token of a prompt with all modules stored",
    "ttft_full": "time to first token under full attention",
    "speed": "how many times as fast that is",
}
PRICE = ("kl_first_nats", "kl_mean_nats", "greedy_agreement_frac")
"""What reuse costs in quality, measured only."""

COLUMNS: dict[str, Column] = {
    "tier": Column(title="/tier"),
    "policy": Column(title="/policy"),
    "budget_modules": Column(title="budget/modules", text="{:,}".format),
    "scaffolds": Column(title="scaf-/folds", text=_yes),
    "seen": Column(title="/seen"),
    "peak_bytes": Column(title="stored/at most", text=format_bytes),
    "module_hit_frac": Column(title="hits/modules", text="{:.3f}".format),
    "token_hit_frac": Column(title="hits/tokens", text="{:.3f}".format),
    "bound_hit_frac": Column(title="bound/modules", text="{:.3f}".format),
    "evictions": Column(title="evicted/modules", text="{:,}".format),
    "ttft_mean_s": Column(title="TTFT/mean", text=format_seconds),
    "ttft_full_mean_s": Column(title="TTFT/full attention", text=format_seconds),
    "ttft_saved_frac": Column(title="TTFT/saved", text=percent),
}

PROMPT_COLUMNS: dict[str, Column] = {
    "prompt": Column(title="/prompt"),
    "tier": Column(title="/tier"),
    "scaffolds": Column(title="scaf-/folds", text=_yes),
    "seen": Column(title="/seen"),
    "tokens": Column(title="/tokens"),
    "fresh_tokens": Column(title="tokens/computed"),
    "ttft_full_s": Column(title="TTFT/full", text=format_seconds),
    "ttft_s": Column(title="TTFT/stored", text=format_seconds),
    "ttft_full_measured_s": Column(title="TTFT full/measured", text=format_seconds),
    "ttft_measured_s": Column(title="TTFT stored/measured", text=format_seconds),
    "ttft_simulated_s": Column(title="TTFT stored/simulated", text=format_seconds),
    "ttft_error_frac": Column(title="/error", text=signed_percent),
    "speed_vs_full": Column(title="speed/vs full", text="{:.1f}x".format),
    "kl_first_nats": Column(title="KL nats/first", text="{:.3f}".format),
    "kl_mean_nats": Column(title="KL nats/answer", text="{:.3f}".format),
    "greedy_agreement_frac": Column(title="same token/likeliest", text=lambda value: percent(value, 0)),
}

LEGEND = (
    "hits: share of the modules that prompts read, or of their tokens, found in the store; bound: Belady's MIN."
    "\nTTFT: time to first token of a prompt that waits for no other; stored: all of its modules are in the store; "
    "full: all of its text\nread under full attention. KL: divergence of the next token's distribution from full "
    "attention's, at the first token and\nover the answer. -: does not apply."
)


def _table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Column]) -> str:
    """Return the table of cells or prompts, without the columns about the encoding where all have the same."""
    constant = [name for name in ("scaffolds", "seen") if len({row[name] for row in rows}) == 1]
    return table_text(rows, {name: column for name, column in columns.items() if name not in constant})


def verdict_of(cells: Sequence[ModulesCell], prompts: Sequence[PromptEntry]) -> list[str]:
    """Return what the cells and prompts say in words, and what their figures leave out."""
    lines = []
    for tier in dict.fromkeys(prompt["tier"] for prompt in prompts):
        speeds = [prompt["speed_vs_full"] for prompt in prompts if prompt["tier"] == tier]
        lines.append(
            f"With all of its modules stored on the {tier}, a prompt's first token comes {min(speeds):.1f} to "
            f"{max(speeds):.1f} times as fast as under full attention."
        )
    real = [cell for cell in cells if cell["policy"] != "belady"]
    if real:
        best = min(real, key=lambda cell: cell["ttft_mean_s"])
        lines.append(
            f"Over the stream of {best['num_requests']} requests, which begins with an empty store, {best['policy']} "
            f"with room for {best['budget_modules']} of {best['read_modules']} modules "
            f"({format_bytes(best['peak_bytes'])} on the {best['tier']}) changes the mean time to first token by "
            f"{-100 * best['ttft_saved_frac']:+.0f}%."
        )
    if any("kl_mean_nats" in prompt for prompt in prompts):
        worst = max(prompts, key=lambda prompt: prompt["kl_mean_nats"])
        agree = float(np.mean([prompt["greedy_agreement_frac"] for prompt in prompts]))
        lines.append(
            f"The price: the likeliest next token is full attention's in {100 * agree:.0f}% of the steps; the largest "
            f"divergence over an answer is {worst['kl_mean_nats']:.2f} nats (prompt {worst['prompt']})."
        )
    else:
        lines.append("What reuse costs in quality is not simulated: `kvsim measure` measures it prompt by prompt.")
    outside = max((cell.get("ttft_outside_frac") or 0.0 for cell in cells), default=0.0)
    if outside:
        lines.append(
            f"{percent(outside)} of the requests have prompts longer than the profile measured; their times are "
            "extrapolated linearly."
        )
    return lines


def modules_figure(summary: Mapping[str, Any]) -> Figure:
    """Return times to first token by prompt, the price by prompt where it was measured, and hits over the budget."""
    prompts, cells = summary["prompts"], summary["cells"]
    tiers = list(dict.fromkeys(prompt["tier"] for prompt in prompts))
    names = list(dict.fromkeys(prompt["prompt"] for prompt in prompts))
    is_priced = any("kl_mean_nats" in prompt for prompt in prompts)
    figure = new_figure(
        5.4,
        f"{summary['scenario']}: prompts out of stored modules",
        "Times: all of a prompt's modules are stored."
        + (" KL: divergence from full attention on the same text." if is_priced else ""),
    )
    panels = add_panels(figure, 1, 3 if is_priced else 2)[0]
    handles = _draw_times(panels[0], prompts, tiers, names)
    if is_priced:
        handles |= _draw_price(panels[1], prompts, names)
    handles |= _draw_hits(panels[-1], cells)
    legend_above(figure, handles)
    return figure


def _draw_times(axis: Any, prompts: Sequence[PromptEntry], tiers: list[str], names: list[str]) -> dict[str, Any]:
    height = 0.8 / (len(tiers) + 1)
    places = np.arange(len(names))
    full_s = [_first(prompts, name)["ttft_full_s"] for name in names]
    handles = {"full attention": axis.barh(places, full_s, height, color="0.6")}
    for number, tier in enumerate(tiers):
        own = [prompt for prompt in prompts if prompt["tier"] == tier]
        stored_s = [_first(own, name)["ttft_s"] for name in names]
        shift = (number + 1) * height
        handles[f"stored on the {tier}"] = axis.barh(places + shift, stored_s, height, color=PALETTE[number])
    axis.set(xlabel="time to first token (s)")
    _name_rows(axis, names, 0.4 - height / 2)
    return handles


def _draw_price(axis: Any, prompts: Sequence[PromptEntry], names: list[str]) -> dict[str, Any]:
    places = np.arange(len(names))
    chosen = [_first(prompts, name) for name in names]
    handles = {}
    series = {
        "KL, first token": [prompt["kl_first_nats"] for prompt in chosen],
        "KL, answer": [prompt["kl_mean_nats"] for prompt in chosen],
    }
    for number, (label, values) in enumerate(series.items()):
        color = PALETTE[3 + number]
        handles[label] = axis.barh(places + 0.35 * number, values, 0.35, color=color)
    axis.set(xlabel="KL divergence (nats)")
    _name_rows(axis, [""] * len(names), 0.175)
    return handles


def _draw_hits(axis: Any, cells: Sequence[ModulesCell]) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    tier = cells[0]["tier"]
    own = [cell for cell in cells if cell["tier"] == tier and cell["seen"] == cells[0]["seen"]]
    names = list(dict.fromkeys(series_name(cell) for cell in own))
    looks = policy_looks(names)
    for name in names:
        line = sorted((cell for cell in own if series_name(cell) == name), key=lambda cell: cell["budget_modules"])
        budgets = [cell["budget_modules"] for cell in line]
        handles[name] = axis.plot(budgets, [cell["module_hit_frac"] or 0.0 for cell in line], **looks[name])[0]
    axis.set(xlabel="budget (modules)", ylabel="share of modules hit", ylim=(0, 1))
    return handles


def series_name(cell: ModulesCell) -> str:
    """Return what a line of cells is called: the policy, and whether scaffolds are encoded."""
    return f"{cell['policy']}, scaffolds" if cell["scaffolds"] else str(cell["policy"])


def _first(prompts: Sequence[PromptEntry], name: str) -> PromptEntry:
    return next(prompt for prompt in prompts if prompt["prompt"] == name)


def _name_rows(axis: Any, names: list[str], shift: float) -> None:
    axis.set_yticks(np.arange(len(names)) + shift, names)
    axis.invert_yaxis()


def show(summary: Mapping[str, Any]) -> str:
    """Return the table of the cells, that of the prompts, and the verdict."""
    tables = _table(summary["cells"], COLUMNS), _table(summary["prompts"], PROMPT_COLUMNS)
    return result_text(summary, *tables, LEGEND)


def figures(result: RunResult) -> dict[str, bytes]:
    """Return the times and, where measured, the price of each prompt, and hits over the budget."""
    return {"prompt_modules.png": png(modules_figure(result.summary))}


COMPARED = Fields(
    keys=("tier", "policy", "budget_modules", "scaffolds", "seen"),
    figures=("ttft_mean_s", "ttft_full_mean_s"),
    counts=("module_hits", "module_misses", "evictions", "hit_tokens", "encoded_tokens", "peak_bytes"),
    columns=COLUMNS,
)


def compare(simulated: RunResult, measured: RunResult) -> Compared:
    """Compare counts, which must be equal request by request, and times; report the measured price of each prompt."""
    comparison = Comparison(simulated, measured, COMPARED)
    comparison.rows_equal("requests_equal", "counts of every request", *COUNTED)
    is_device = np.array([cell["tier"] == "device" for cell in measured.summary["cells"]])[measured.rows["cell"]]
    errors = comparison.row_errors("ttft_s", "processor_s")[is_device]  # the others wait for the link
    comparison.errors(
        "request_processor", errors, "a request on the device tier against its processor time", PROCESSOR_NOTE
    )
    prompts = _prompt_pairs(simulated, measured)
    comparison.contents["prompts"] = prompts
    comparison.lines += ["", _table(prompts, PROMPT_COLUMNS), ""]
    for name, what in _PROMPT_ERRORS.items():
        comparison.errors(f"prompt_{name}", [prompt[f"{name}_error_frac"] for prompt in prompts], what)
    means = {name: float(np.mean([prompt[name] for prompt in prompts])) for name in PRICE}
    comparison.contents |= {f"{name.rpartition('_')[0]}_mean": mean for name, mean in means.items()}
    comparison.lines.append(
        f"against full attention on the same text: KL divergence {means['kl_first_nats']:.3f} nats at the first token, "
        f"{means['kl_mean_nats']:.3f} over the answer; same likeliest token in "
        f"{percent(means['greedy_agreement_frac'], 0)} of the steps"
    )
    return comparison.compared(by="tier")


def _prompt_pairs(simulated: RunResult, measured: RunResult) -> list[dict[str, Any]]:
    left = {prompt_key(prompt): prompt for prompt in simulated.summary["prompts"]}
    pairs = []
    for real in measured.summary["prompts"]:
        sim = left.get(prompt_key(real))
        if sim is None or sim["reused_tokens"] != real["reused_tokens"]:
            raise ResultError(f"prompt {real['prompt']!r} is another one in the simulated result; simulate again")
        pair = {name: value for name, value in real.items() if name not in ("ttft_s", "ttft_full_s")}
        for name in ("ttft_s", "ttft_full_s"):
            pair |= side_by_side(name, sim[name], real[name])
        pair["speed_error_frac"] = sim["speed_vs_full"] / real["speed_vs_full"] - 1
        pairs.append(pair)
    return pairs
