"""Generation with and without a KV cache, simulated: a sum of calls of the model, each at its cost in the profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.experiments.base import check_calls, make_result, profile_of, shape_of
from kvsim.experiments.kv_on_off.cell import KvCell
from kvsim.experiments.kv_on_off.report import growth_of
from kvsim.experiments.kv_on_off.scenario import KvOnOff
from kvsim.experiments.types import Job
from kvsim.profile.profile import Profile
from kvsim.profile.tables import CostTable
from kvsim.report.results import RunResult, joined
from kvsim.scenario.shapes import ModelShape, check_context
from kvsim.units import format_bytes

_POSITION_BYTES = 8
"""Of a position, and of a token id."""


def check(scenario: KvOnOff, base_dir: Path | None) -> int:
    """Check profile and costs, and return the number of cells."""
    for cell in scenario.cells:
        _table_of(cell, profile_of(cell, base_dir))
    return len(scenario.cells)


def _table_of(cell: KvOnOff, profile: Profile) -> CostTable:
    """Return what the cell's calls of the model cost, refusing those that cannot be."""
    run, table = cell.run, profile.cache_cost(f"forward@{cell.run.batch}")
    check_context(shape_of(cell), run.prompt_tokens + run.new_tokens - 1, cell.name)
    check_calls(cell, profile, table, [(run.prompt_tokens, 0), (1, run.prompt_tokens)], batch=run.batch)
    return table


def simulate(scenario: KvOnOff, job: Job) -> RunResult:
    """Return what each cell takes: its calls of the model one after the other, at the profile's cost of each."""
    cells, tables = [], []
    for cell in scenario.cells:
        profile = profile_of(cell, job.base_dir)
        step_s = step_times_s(cell, profile)
        cells.append(cell_of(cell, step_s, peak_bytes=peak_bytes(cell, shape_of(cell))))
        tables.append(rows_of(cell, step_s))
        job.progress(1 / len(scenario.cells))
    add_speeds(cells)
    return make_result(
        scenario,
        job,
        cells=cells,
        rows=tables,
        verdict=verdict_of(cells),
        profile=profile,
        extra={"growth": growth_of(cells, joined(tables))},
    )


def step_times_s(scenario: KvOnOff, profile: Profile) -> NDArray[np.float64]:
    """Return the seconds of each generated token, ``[new_tokens]``, the first one with the prompt's."""
    run = scenario.run
    table = _table_of(scenario, profile)
    steps = range(run.new_tokens)
    if run.use_cache:
        later = [table.at_s(1, cached_tokens=run.prompt_tokens + step) for step in steps[1:]]
        return np.array([table.at_s(run.prompt_tokens, cached_tokens=0), *later])
    return np.array([table.at_s(run.prompt_tokens + step, cached_tokens=0) for step in steps])


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


def cell_of(scenario: KvOnOff, step_s: NDArray[np.float64], *, peak_bytes: int) -> KvCell:
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


def rows_of(scenario: KvOnOff, step_s: NDArray[np.float64], repetition: int = 0) -> dict[str, NDArray[Any]]:
    """Return a row for each generated token of one cell."""
    run = scenario.run
    steps = np.arange(run.new_tokens)
    return {
        "use_cache": np.full(steps.size, run.use_cache),
        "batch": np.full(steps.size, run.batch),
        "prompt_tokens": np.full(steps.size, run.prompt_tokens),
        "repetition": np.full(steps.size, repetition),
        "step": steps,
        "context_tokens": run.prompt_tokens + steps,
        "step_s": step_s,
    }


def _place(cell: KvCell) -> tuple[int, int, int]:
    return cell["batch"], cell["prompt_tokens"], cell["new_tokens"]


def add_speeds(cells: list[KvCell]) -> None:
    """Add ``speed_vs_off``: the time without a cache over the cell's own, where both were run."""
    off_s = {_place(cell): cell["latency_s"] for cell in cells if not cell["use_cache"]}
    for cell in cells:
        base_s = off_s.get(_place(cell))
        cell["speed_vs_off"] = base_s / cell["latency_s"] if base_s is not None else None


def verdict_of(cells: list[KvCell]) -> list[str]:
    """Return what the cells say in words."""
    pairs = [(speed, cell) for cell in cells if cell["use_cache"] and (speed := cell["speed_vs_off"]) is not None]
    if not pairs:
        return []
    least, most = (
        "{:.1f} times ({prompt_tokens} tokens of prompt, batch {batch})".format(speed, **cell)
        for speed, cell in (choose(pairs, key=lambda pair: pair[0]) for choose in (min, max))
    )
    return [
        f"Keeping keys and values makes generation {least} to {most} as fast, for at most "
        f"{format_bytes(max(cell['kv_bytes'] for _, cell in pairs))} of cache."
    ]
