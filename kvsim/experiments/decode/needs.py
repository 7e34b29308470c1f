"""What a simulated cell takes of the machine: worked out before anything is made, and refused where it is too much."""

from __future__ import annotations

import os

from kvsim.errors import CapacityError
from kvsim.experiments.decode.cells import Cell
from kvsim.units import format_bytes

PAGE_ID_BYTES = 200
"""Memory of one page id: state of policy and page table, a step's scores and masses, the generator's weights. Measured
at 1 to 2 million ids, Python and its libraries apart."""

MAX_PAGES = 2**31
"""Page ids that the kernels can number."""

PREFETCH_BYTES = 100
"""Memory of one prefetch that a step may ask for."""

PAGE_STEP_S = 1e-6
"""Time of one page id in one step: generated, scored and selected from. Measured alike, on one core."""

MAX_RUN_S = 12 * 3600.0
"""A cell that would take longer is refused: nobody meant it."""


def check_needs(cell: Cell) -> None:
    """Refuse a cell that no machine like this one can simulate.

    Raises
    ------
    CapacityError
        With the memory and the time that it would take.
    """
    grid, scenario = cell.setting.grid, cell.scenario
    num_steps = cell.extent.num_steps * scenario.run.repetitions
    prefetches = grid.num_layers * cell.setting.prefetch_quota_pages
    memory_bytes = grid.num_pages * PAGE_ID_BYTES + prefetches * PREFETCH_BYTES
    run_s = grid.num_pages * num_steps * PAGE_STEP_S
    available_bytes = physical_memory_bytes()
    if grid.num_pages <= MAX_PAGES and memory_bytes <= available_bytes and run_s <= MAX_RUN_S:
        return
    raise CapacityError(
        f"{scenario.name}: {grid.num_pages:,} pages ({grid.num_sequences:,} sequences of {grid.num_layers:,} layers of "
        f"{grid.pages_per_layer:,} pages) for {num_steps:,} steps would take about {format_bytes(memory_bytes)} of "
        f"memory and {_hours(run_s)} to simulate; this machine has {format_bytes(available_bytes)}, and the limit is "
        f"{_hours(MAX_RUN_S)}: lower the context, run.batch, the steps or the layers, or raise page_tokens"
    )


def physical_memory_bytes() -> int:
    """Return the memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _hours(time_s: float) -> str:
    return f"{time_s / 3600:,.0f} hours"
