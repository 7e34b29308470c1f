"""Prompt modules, simulated: a stream of prompts through a store of encoded modules, at the profile's costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kvsim.errors import ResultError
from kvsim.experiments.base import cells_of, make_result, profile_of
from kvsim.experiments.prompt_modules.case import case_of, source_of
from kvsim.experiments.prompt_modules.costs import COUNTED, Costs, all_stored, cell_of, counts_of, prompt_of, rows_of
from kvsim.experiments.prompt_modules.lengths import lengths_of
from kvsim.experiments.prompt_modules.report import (
    COLUMNS,
    LEGEND,
    PROMPT_COLUMNS,
    modules_figure,
    table_text,
    verdict_of,
)
from kvsim.experiments.prompt_modules.scenario import PromptModules
from kvsim.experiments.types import Compared, Job
from kvsim.report.pairs import Pairs, pair_cells, pairs_csv, pairs_figure, pairs_text
from kvsim.report.results import RunResult, summary_json
from kvsim.report.style import png
from kvsim.types import FloatArray

KEYS = ("tier", "policy", "budget_modules", "scaffolds", "seen")
FIGURES = ("ttft_mean_s", "ttft_full_mean_s")
COUNTS = ("module_hits", "module_misses", "evictions", "hit_tokens", "encoded_tokens", "peak_bytes")
PROMPT_KEYS = ("prompt", "tier", "scaffolds", "seen")
PRICE = ("kl_first_nats", "kl_mean_nats", "greedy_agreement_frac")
"""What reuse costs in quality, measured only."""


def check(scenario: PromptModules, base_dir: Path | None) -> int:
    """Check schema, prompts, budgets and costs of every cell, and return the number of cells."""
    cells = [cell for cell, _ in cells_of(scenario)]
    source = source_of(scenario, base_dir)
    length_of = lengths_of(scenario, source, base_dir)
    for cell in cells:
        case_of(cell, source, length_of).books(cell)
        Costs(profile=profile_of(cell, base_dir), chunk_tokens=cell.prefill_chunk_tokens).check((cell.cache.tier,))
    return len(cells)


def simulate(scenario: PromptModules, job: Job) -> RunResult:
    """Serve the stream out of every cell's store, at the profile's costs."""
    found = cells_of(scenario)
    source = source_of(scenario, job.base_dir)
    length_of = lengths_of(scenario, source, job.base_dir)
    entries, tables = [], []
    prompts: dict[tuple[Any, ...], dict[str, Any]] = {}
    profile = profile_of(scenario, job.base_dir)
    for number, (cell, swept) in enumerate(found):
        case = case_of(cell, source, length_of)
        profile = profile_of(cell, job.base_dir)
        costs = Costs(profile=profile, chunk_tokens=cell.prefill_chunk_tokens)
        costs.check((cell.cache.tier,))
        served, counts = counts_of(case, cell)
        arrived = [case.assemblies[request] for request in case.requests]
        ttft_s = np.array(
            [
                costs.ttft_s(case, assembly, done, cell.cache.tier)
                for assembly, done in zip(arrived, served, strict=True)
            ]
        )
        full_s = np.array([costs.full_s(assembly) for assembly in arrived])
        bound, _ = counts_of(
            case, cell.model_copy(update={"cache": cell.cache.model_copy(update={"policy": "belady"})})
        )
        entry = cell_of(cell, case, counts, ttft_s=ttft_s, full_s=full_s)
        entry["bound_hit_frac"] = sum(done.num_hits for done in bound) / max(1, len(case.accesses))
        outside = [costs.is_outside(assembly, cell.cache.tier) for assembly in arrived]
        entry["ttft_outside_frac"] = float(np.mean(outside))
        entries.append(entry | swept)
        tables.append(rows_of(number, case, counts, ttft_s=ttft_s, full_s=full_s))
        for assembly in case.assemblies:
            warm_s = costs.ttft_s(case, assembly, all_stored(assembly), cell.cache.tier)
            one = prompt_of(cell, assembly, ttft_s=warm_s, full_s=costs.full_s(assembly))
            prompts[tuple(one[key] for key in PROMPT_KEYS)] = one
        job.progress(1 / len(found))
    return make_result(
        scenario,
        job,
        cells=entries,
        rows={name: np.concatenate([table[name] for table in tables]) for name in tables[0]},
        verdict=verdict_of(entries, list(prompts.values())),
        profile=profile,
        seed=scenario.stream.seed,
        extra={"prompts": list(prompts.values())},
    )


def show(summary: Mapping[str, Any]) -> str:
    """Return the table of the cells, that of the prompts, and the verdict."""
    profile = summary["profile"]
    how = "measured" if summary.get("is_measured") else f"costs of {profile['name']} ({profile['kind']})"
    return "\n\n".join(
        [
            f"{summary['scenario']}: {how}",
            table_text(summary["cells"], COLUMNS),
            table_text(summary["prompts"], PROMPT_COLUMNS),
            LEGEND,
            "\n".join(summary["verdict"]),
        ]
    )


def figures(result: RunResult) -> dict[str, bytes]:
    """Return the times and, where measured, the price of each prompt, and hits over the budget."""
    return {"prompt_modules.png": png(modules_figure(result.summary))}


def compare(simulated: RunResult, measured: RunResult) -> Compared:
    """Compare counts, which must be equal request by request, and times; tell the measured price of each prompt."""
    pairs = pair_cells(simulated, measured, keys=KEYS, figures=FIGURES, counts=COUNTS)
    prompts = _prompt_pairs(simulated, measured)
    errors = np.array([prompt["ttft_error_frac"] for prompt in prompts])
    full_errors = np.array([prompt["ttft_full_error_frac"] for prompt in prompts])
    speed_errors = np.array([prompt["speed_error_frac"] for prompt in prompts])
    processor_errors = _processor_errors(simulated, measured)
    extra: dict[str, Any] = {
        "requests_equal": all(np.array_equal(simulated.rows[name], measured.rows[name]) for name in COUNTED),
        "prompts": prompts,
        "prompt_ttft_median_error_frac": float(np.median(np.abs(errors))),
        "prompt_ttft_worst_error_frac": float(errors[np.argmax(np.abs(errors))]),
        "prompt_ttft_full_median_error_frac": float(np.median(np.abs(full_errors))),
        "prompt_speed_median_error_frac": float(np.median(np.abs(speed_errors))),
        "request_processor_median_error_frac": float(np.median(processor_errors)) if processor_errors.size else None,
        **{f"{name.removesuffix('_nats').removesuffix('_frac')}_mean": _mean(prompts, name) for name in PRICE},
    }
    contents = pairs.summary() | extra
    return Compared(
        contents=contents,
        text=_text(pairs, extra),
        files={
            "compare.png": png(pairs_figure(pairs, by="tier")),
            "compare.csv": pairs_csv(pairs).encode(),
            "compare.json": summary_json(contents).encode(),
        },
    )


def _prompt_pairs(simulated: RunResult, measured: RunResult) -> list[dict[str, Any]]:
    left = {tuple(prompt[key] for key in PROMPT_KEYS): prompt for prompt in simulated.summary["prompts"]}
    found = []
    for real in measured.summary["prompts"]:
        key = tuple(real[key] for key in PROMPT_KEYS)
        if key not in left or left[key]["reused_tokens"] != real["reused_tokens"]:
            raise ResultError(f"prompt {real['prompt']!r} is another one in the simulated result; simulate again")
        pair = {name: value for name, value in real.items() if name not in ("ttft_s", "ttft_full_s")}
        for name in ("ttft", "ttft_full"):
            pair |= {f"{name}_simulated_s": left[key][f"{name}_s"], f"{name}_measured_s": real[f"{name}_s"]}
            pair[f"{name}_error_frac"] = left[key][f"{name}_s"] / real[f"{name}_s"] - 1
        pair["speed_error_frac"] = left[key]["speed_vs_full"] / real["speed_vs_full"] - 1
        found.append(pair)
    return found


def _processor_errors(simulated: RunResult, measured: RunResult) -> FloatArray:
    """Return the errors against what the thread computed, of requests that wait for no link: those of the device."""
    is_device = np.array([cell["tier"] == "device" for cell in measured.summary["cells"]])[measured.rows["cell"]]
    errors = simulated.rows["ttft_s"] / measured.rows["processor_s"] - 1
    sizes: FloatArray = np.abs(errors[is_device])
    return sizes


def _mean(prompts: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([prompt[name] for prompt in prompts]))


def _text(pairs: Pairs, extra: Mapping[str, Any]) -> str:
    lines = [
        pairs_text(pairs, COLUMNS),
        f"counts of every request equal: {'yes' if extra['requests_equal'] else 'NO'}",
    ]
    if extra["request_processor_median_error_frac"] is not None:
        lines.append(
            "a request on the device tier against its processor time, which others on the machine do not lengthen: "
            f"median error {100 * extra['request_processor_median_error_frac']:.1f}% (on a CPU and one thread only)"
        )
    return "\n".join(
        [
            *lines,
            "",
            table_text(extra["prompts"], PROMPT_COLUMNS),
            "",
            f"time to first token of a prompt with all modules stored: median error "
            f"{100 * extra['prompt_ttft_median_error_frac']:.1f}%, worst "
            f"{100 * extra['prompt_ttft_worst_error_frac']:+.1f}%; under full attention: median error "
            f"{100 * extra['prompt_ttft_full_median_error_frac']:.1f}%; how many times as fast: median error "
            f"{100 * extra['prompt_speed_median_error_frac']:.1f}%",
            f"against full attention on the same text: KL divergence {extra['kl_first_mean']:.3f} nats at the first "
            f"token, {extra['kl_mean_mean']:.3f} over the answer; same likeliest token in "
            f"{100 * extra['greedy_agreement_mean']:.0f}% of the steps",
        ]
    )
