"""Generation with and without a KV cache, simulated: a sum of calls of the model, each at its cost in the profile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.experiments.base import cells_of, make_result, profile_of, shape_of
from kvsim.experiments.kv_on_off.report import growth_figure, growth_of, growth_text
from kvsim.experiments.kv_on_off.scenario import KvOnOff
from kvsim.experiments.types import Compared, Job
from kvsim.profile.profile import Profile
from kvsim.report.pairs import cells_text, pair_cells, pairs_csv, pairs_figure, pairs_text
from kvsim.report.results import RunResult, summary_json
from kvsim.report.style import png
from kvsim.report.tables import Column
from kvsim.scenario.shapes import ModelShape
from kvsim.units import format_bytes

KEYS = ("use_cache", "batch", "prompt_tokens", "new_tokens")
_POSITION_BYTES = 8
"""Of a position, and of a token id."""

FIGURES = ("latency_s", "first_token_s", "peak_bytes")
COUNTS = ("kv_bytes", "computed_tokens")

COLUMNS: dict[str, Column] = {
    "use_cache": Column(title="KV/cache", text=lambda value: "on" if value else "off"),
    "batch": Column(title="/batch", text=str),
    "prompt_tokens": Column(title="prompt/tokens", text=str),
    "new_tokens": Column(title="new/tokens", text=str),
    "latency_s": Column(title="latency/s", text=lambda value: f"{value:.2f}"),
    "first_token_s": Column(title="first token/s", text=lambda value: f"{value:.3f}"),
    "tokens_per_s": Column(title="tokens/per s", text=lambda value: f"{value:.1f}"),
    "speed_vs_off": Column(title="speed/vs off", text=lambda value: f"{value:.2f}x"),
    "kv_bytes": Column(title="KV cache/at the end", text=format_bytes),
    "peak_bytes": Column(title="peak memory/over weights", text=format_bytes),
    "computed_tokens": Column(title="tokens/computed", text=lambda value: f"{value:,}"),
}


def check(scenario: KvOnOff, base_dir: Path | None) -> int:
    """Check profile and costs, and return the number of cells."""
    cells = cells_of(scenario)
    for cell, _ in cells:
        profile_of(cell, base_dir).cache_cost(_cost_name(cell))
    return len(cells)


def simulate(scenario: KvOnOff, job: Job) -> RunResult:
    """Return what each cell takes: its calls of the model one after the other, at the profile's cost of each."""
    cells, tables = [], []
    found = cells_of(scenario)
    profile = profile_of(found[0][0], job.base_dir)
    for number, (cell, _) in enumerate(found):
        profile = profile_of(cell, job.base_dir)
        step_s = step_times_s(cell, profile)
        cells.append(cell_of(cell, step_s, peak_bytes=peak_bytes(cell, shape_of(cell))))
        tables.append(rows_of(number, cell, step_s))
        job.progress(1 / len(found))
    add_speeds(cells)
    rows = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    return make_result(
        scenario,
        job,
        cells=cells,
        rows=rows,
        verdict=verdict_of(cells),
        profile=profile,
        extra={"growth": growth_of(cells, rows)},
    )


def step_times_s(scenario: KvOnOff, profile: Profile) -> NDArray[np.float64]:
    """Return the seconds of each generated token, ``[new_tokens]``, the first one with the prompt's."""
    run = scenario.run
    table = profile.cache_cost(_cost_name(scenario))
    steps = range(run.new_tokens)
    if run.use_cache:
        later = [table.at_s(1, run.prompt_tokens + step) for step in steps[1:]]
        return np.array([table.at_s(run.prompt_tokens, 0), *later])
    return np.array([table.at_s(run.prompt_tokens + step, 0) for step in steps])


def kv_bytes(scenario: KvOnOff, shape: ModelShape) -> int:
    """Return the bytes of the KV cache after the last step: the last token generated is never fed back."""
    run = scenario.run
    if not run.use_cache:
        return 0
    return run.batch * shape.num_layers * shape.page_bytes(1) * (run.prompt_tokens + run.new_tokens - 1)


def computed_tokens(scenario: KvOnOff) -> int:
    """Return the tokens that pass through the model."""
    run = scenario.run
    each = [1 if run.use_cache and step else run.prompt_tokens + step for step in range(run.new_tokens)]
    return run.batch * sum(each)


def peak_bytes(scenario: KvOnOff, shape: ModelShape) -> int:
    """Return the most bytes of tensors alive besides the weights.

    With a cache either at the end of the prompt, or in the last step: then there is the whole cache, and beside it what
    growing one layer of it copies (its keys, then its values) or the logits.
    """
    run = scenario.run
    if not run.use_cache:
        return pass_bytes(shape, run.batch, run.prompt_tokens + run.new_tokens - 1)
    layer_token_bytes = run.batch * shape.page_bytes(1)
    at_prompt = shape.num_layers * layer_token_bytes * run.prompt_tokens
    copied = layer_token_bytes // 2 * (run.prompt_tokens + run.new_tokens - 1)
    return max(
        at_prompt + pass_bytes(shape, run.batch, run.prompt_tokens),
        kv_bytes(scenario, shape) + max(copied, pass_bytes(shape, run.batch, 1)),
    )


def pass_bytes(shape: ModelShape, num_sequences: int, num_tokens: int) -> int:
    """Return the most bytes alive in one pass of a gated transformer over `num_tokens` of each sequence.

    In the MLP: the embeddings, the layer's input, the residual and the normed input, each as wide as the model; the
    activated gate, the other half and their product, each as wide as the MLP. Or, where few tokens pass, the logits.
    """
    tokens = num_sequences * num_tokens
    positions = num_tokens * (2 * shape.head_dim * shape.dtype_bytes + _POSITION_BYTES)
    in_mlp = tokens * (4 * shape.hidden_size + 3 * shape.intermediate_size) * shape.dtype_bytes
    at_head = (num_sequences * shape.vocab_size + tokens * 3 * shape.hidden_size) * shape.dtype_bytes
    return positions + tokens * _POSITION_BYTES + max(in_mlp, at_head)


def cell_of(scenario: KvOnOff, step_s: NDArray[np.float64], *, peak_bytes: int) -> dict[str, Any]:
    """Return the cell's entry of the summary."""
    run = scenario.run
    latency_s = float(step_s.sum())
    return {
        "use_cache": run.use_cache,
        "batch": run.batch,
        "prompt_tokens": run.prompt_tokens,
        "new_tokens": run.new_tokens,
        "latency_s": latency_s,
        "first_token_s": float(step_s[0]),
        "tpot_s": float(step_s[1:].mean()) if step_s.size > 1 else None,
        "tokens_per_s": run.batch * run.new_tokens / latency_s,
        "kv_bytes": kv_bytes(scenario, shape_of(scenario)),
        "computed_tokens": computed_tokens(scenario),
        "peak_bytes": peak_bytes,
    }


def rows_of(number: int, scenario: KvOnOff, step_s: NDArray[np.float64], repetition: int = 0) -> dict[str, Any]:
    """Return a row for each generated token of one cell."""
    run = scenario.run
    steps = np.arange(run.new_tokens)
    return {
        "cell": np.full(steps.size, number),
        "use_cache": np.full(steps.size, run.use_cache),
        "batch": np.full(steps.size, run.batch),
        "prompt_tokens": np.full(steps.size, run.prompt_tokens),
        "repetition": np.full(steps.size, repetition),
        "step": steps,
        "context_tokens": run.prompt_tokens + steps,
        "step_s": step_s,
    }


def _cost_name(scenario: KvOnOff) -> str:
    return f"forward@{scenario.run.batch}"


def _place(cell: Mapping[str, Any]) -> tuple[int, int, int]:
    return cell["batch"], cell["prompt_tokens"], cell["new_tokens"]


def add_speeds(cells: list[dict[str, Any]]) -> None:
    """Add ``speed_vs_off``: the time without a cache over the cell's own, where both were run."""
    off_s = {_place(cell): cell["latency_s"] for cell in cells if not cell["use_cache"]}
    for cell in cells:
        base_s = off_s.get(_place(cell))
        cell["speed_vs_off"] = base_s / cell["latency_s"] if base_s is not None else None


def verdict_of(cells: list[dict[str, Any]]) -> list[str]:
    """Return what the cells say in words."""
    pairs = [cell for cell in cells if cell["use_cache"] and cell["speed_vs_off"] is not None]
    if not pairs:
        return []
    least, most = min(pairs, key=lambda cell: cell["speed_vs_off"]), max(pairs, key=lambda cell: cell["speed_vs_off"])
    told = "{prompt_tokens} tokens of prompt, batch {batch}"
    return [
        f"Keeping keys and values makes generation {least['speed_vs_off']:.1f} times ({told.format(**least)}) to "
        f"{most['speed_vs_off']:.1f} times ({told.format(**most)}) as fast, for at most "
        f"{format_bytes(max(cell['kv_bytes'] for cell in pairs))} of cache."
    ]


def show(summary: Mapping[str, Any]) -> str:
    """Return the table of the cells, how they grow, and the verdict."""
    profile = summary["profile"]
    how = "measured" if summary.get("is_measured") else f"costs of {profile['name']} ({profile['kind']})"
    table = cells_text(summary["cells"], COLUMNS)
    return "\n\n".join([f"{summary['scenario']}: {how}", table, growth_text(summary["growth"]), *summary["verdict"]])


def figures(result: RunResult) -> dict[str, bytes]:
    """Return latency, throughput and memory over the prompt, and the time of a step over the context."""
    return {"kv_on_off.png": png(growth_figure(result))}


def compare(simulated: RunResult, measured: RunResult) -> Compared:
    """Compare latency, time to first token and memory of every cell; bytes of the cache and tokens must be equal."""
    pairs = pair_cells(simulated, measured, keys=KEYS, figures=FIGURES, counts=COUNTS)
    contents = pairs.summary()
    return Compared(
        contents=contents,
        text=pairs_text(pairs, COLUMNS),
        files={
            "compare.png": png(pairs_figure(pairs, by="use_cache")),
            "compare.csv": pairs_csv(pairs).encode(),
            "compare.json": summary_json(contents).encode(),
        },
    )
