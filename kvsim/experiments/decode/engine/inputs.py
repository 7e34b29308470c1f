"""What the engine needs to run a cell, and which cells it refuses."""

from __future__ import annotations

from kvsim.engine.paged.paged_run import DecodeInput
from kvsim.errors import ScenarioError
from kvsim.experiments.decode.cells import Cell, cells_of, measured_extent, resolve
from kvsim.experiments.decode.needs import check_needs
from kvsim.experiments.decode.recorded import check_dropping
from kvsim.experiments.types import Job
from kvsim.scenario.decode import Scenario


def resolve_measured(scenario: Scenario, job: Job) -> list[Cell]:
    """Return the cells of a scenario as they are measured, checked.

    Raises
    ------
    KvsimError
        With a line for every error.
    """

    def check(cell: Cell) -> None:
        cell.check_budget()
        check_needs(cell, is_measured=True)
        if cell.is_peer:
            check_peer(cell)
        check_dropping(cell)

    built = cells_of(scenario, measured_extent, base_dir=job.base_dir, plug_ins=job.plug_ins)
    return resolve(built, check)


def decode_input(cell: Cell, *, reads_all: bool = False) -> DecodeInput:
    """Return what one run of a cell is given, with a fresh policy; `reads_all`: whatever its selector says."""
    scenario = cell.scenario
    return DecodeInput(
        selector=None if reads_all else cell.selector,
        channel=scenario.selector.channel,
        policy=cell.make_policy(),
        setting=cell.setting,
        page_tokens=scenario.page_tokens,
        pinned_first_pages=scenario.selector.sink_pages,
        pinned_last_pages=scenario.selector.recent_pages,
        num_steps=cell.extent.num_steps,
        warmup_steps=scenario.run.warmup_steps,
        chunk_pages=scenario.prefetch.chunk_pages,
        window_transfers=scenario.prefetch.window_transfers,
        sequence_steps=None if scenario.measure is None else scenario.measure.steps_of(scenario.run.batch),
    )


def check_peer(cell: Cell) -> None:
    """Refuse transformers' offloaded cache where there is no CUDA device to offload from.

    Raises
    ------
    ScenarioError
        Saying so.
    """
    if cell.profile.device != "cuda":
        raise ScenarioError(
            f"{cell.scenario.name}: policy {cell.choice.name!r} is transformers' offloaded cache, which needs a CUDA "
            f"device; profile {cell.profile.name!r} is of a CPU: leave it out of run.policies, or measure on a GPU"
        )
