"""One cell simulated: its rows, from what its batch reads and its policy decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvsim.experiments.decode.cells import Cell, summary_of, tpot_interval_s
from kvsim.experiments.decode.sources import BatchSources
from kvsim.sim import Replay, SimulationInput, simulate_decode

Rows: TypeAlias = dict[str, NDArray[Any]]

Progress: TypeAlias = Callable[[float], None]
"""Called with the share of the work done since the last call."""


def same_run(cell: Cell) -> tuple[str, str]:
    """Return what a cell's rows depend on: where the policy keeps everything, neither budget nor prefetching."""
    scenario = cell.scenario
    if cell.holds_everything:
        scenario = scenario.model_copy(update={"budget": None, "prefetch": None})
    unread: dict[str, Any] = {"run": {"policies"}, "name": True, "profile": {"device_memory"}}
    return scenario.model_dump_json(exclude=unread), cell.choice.model_dump_json()


def cell_entry(cell: Cell, rows: Rows) -> dict[str, Any]:
    """Return the cell's entry of ``summary.json``, but for what only all cells together tell."""
    return summary_of(cell, rows) | {"tpot_interval_s": tpot_interval_s(cell, rows)}


def simulate_cell(cell: Cell, sources: BatchSources, progress: Progress) -> Rows:
    """Return the rows of all repetitions of a cell, one after the other."""
    repetitions: list[Rows] = []
    num_repetitions = cell.scenario.run.repetitions
    for repetition in range(num_repetitions):
        seed = cell.scenario.run.seed + repetition
        replay = sources.of(cell, seed)
        share = 1 / (num_repetitions * replay.num_steps)

        def advance(num_steps: int, share: float = share) -> None:
            progress(num_steps * share)

        rows: Rows = dict(simulate_decode(input_of(cell, replay, seed), advance))
        rows["repetition"] = np.full(replay.num_steps, repetition, dtype=np.int64)
        repetitions.append(rows)
    return {name: np.concatenate([rows[name] for rows in repetitions]) for name in repetitions[0]}


def input_of(cell: Cell, replay: Replay, seed: int) -> SimulationInput:
    """Return what the simulation of one repetition needs, with a fresh policy."""
    scenario = cell.scenario
    last_context = int(replay.context_tokens(replay.num_steps - 1).max())
    setting = cell.setting(replay.grid, last_context, seed)
    return SimulationInput(
        profile=cell.profile,
        replay=replay,
        policy=cell.make_policy(setting),
        policy_name=cell.cost_name,
        setting=setting,
        page_bytes=cell.page_bytes,
        pinned_first_pages=scenario.selector.sink_pages,
        pinned_last_pages=scenario.selector.recent_pages,
        warmup_steps=scenario.run.warmup_steps,
        chunk_pages=scenario.prefetch.chunk_pages,
        window_transfers=scenario.prefetch.window_transfers,
    )


def ignore(share: float) -> None:
    """Show no progress."""
    del share
