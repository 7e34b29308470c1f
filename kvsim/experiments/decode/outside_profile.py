"""What a run asks of its profile beyond what was measured: such costs are extrapolated, and reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kvsim.errors import CalibrationError
from kvsim.experiments.decode.cells import Cell
from kvsim.profile.other_shape import step_problem, times_of, whose_times, with_times_of
from kvsim.profile.profile import SEGMENTS
from kvsim.profile.tables import CostTable
from kvsim.scenario.shapes import check_context
from kvsim.types import pages_of
from kvsim.units import format_bytes

SLACK = 1.25
"""Amounts up to so many times outside the measured range are not worth a line: a cost is all but linear there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beyond:
    """One axis of one cost that some cells ask outside the range that was measured."""

    cost: str
    """The table's name in `Profile.tables`."""
    counts: str
    """What the axis counts: ``tokens``, ``pages``, ``pieces``, ``sequences``, ``all pages`` or ``bytes``."""
    measured_low: float
    measured_high: float
    asked_low: float
    asked_high: float

    def __str__(self) -> str:
        """Return the line that a verdict gives it."""
        name, counted = _NAMES.get(self.cost, self.cost.replace("policies.", "a decision of ")), _COUNTED[self.counts]
        one = self.measured_low == self.measured_high
        low, high = self._text(self.measured_low), self._text(self.measured_high)
        measured = f"{low} only" if one else f"{low} to {high}"
        parts = []
        if self.asked_high > SLACK * self.measured_high:
            how = f"taken as at {high}" if one else "extrapolated linearly"
            parts.append(f"up to {self._text(self.asked_high)}: {how}")
        if self.asked_low < self.measured_low / SLACK:
            parts.append(f"as few as {self._text(self.asked_low)}: taken as at {low}")
        return f"Outside the profile: {name} was measured for {measured} {counted}; asked for {' and '.join(parts)}."

    def _text(self, value: float) -> str:
        return format_bytes(round(value)) if self.counts == "bytes" else f"{value:,.0f}"


_NAMES = {
    "link.to_device": "a copy to the device",
    "link.to_host": "a copy to the host",
    "policies.*": "a decision",
    **{f"segments.{name}": name for name in ("embed", "attention_input", "select", "attention", "attention_output")},
    "segments.head": "head",
}

_COUNTED = {
    "tokens": "attended tokens",
    "pages": "pages",
    "pieces": "pages at once",
    "sequences": "sequences",
    "all pages": "pages in all",
    "bytes": "a page",
}


def beyond_profile(cells: Sequence[Cell]) -> list[Beyond]:
    """Return the costs that `cells` ask outside the measured range by more than `SLACK`, each once, by name.

    The amounts follow from the scenario: what a layer reads, scores and may miss at once at the longest context. Host
    times of segments are measured with their device times and not reported twice.

    Raises
    ------
    CalibrationError
        If the link was measured at one page size only, and a cell's is another: no table has the cost of its copies.
        Or if the times are another model's and less than the profile itself allows (`step_problem`).
    CapacityError
        If the model has not the context (`check_context`).
    """
    _check_cells(cells)
    beyond_by: dict[tuple[str, str], Beyond] = {}
    for cell in cells:
        for cost, counts, grid, value in _asked(cell, cell.extent.context_tokens):
            if grid[0] / SLACK <= value <= grid[-1] * SLACK:
                continue
            known = beyond_by.get((cost, counts))
            beyond_by[cost, counts] = Beyond(
                cost=cost,
                counts=counts,
                measured_low=grid[0],
                measured_high=grid[-1],
                asked_low=min(value, known.asked_low if known else value),
                asked_high=max(value, known.asked_high if known else value),
            )
    return [beyond_by[key] for key in sorted(beyond_by)]


def with_extrapolated(summary: Mapping[str, Any], beyond: Sequence[Beyond], cells: Sequence[Cell]) -> dict[str, Any]:
    """Return `summary` with whose times it has, and `beyond` as figures (`beyond_profile`) and a line each."""
    notes = {}
    for cell in cells:
        note = whose_times(cell.profile, cell.shape, cell.scenario.model.quantisation)
        if note is not None:
            notes[note] = times_of(cell.profile)
    lines = [*summary["verdict"], *map(str, beyond)]
    complete = {**summary, "beyond_profile": [asdict(one) for one in beyond], "verdict": lines}
    return with_times_of(complete, notes)


def _check_cells(cells: Sequence[Cell]) -> None:
    for cell in cells:
        scenario, context_tokens = cell.scenario, cell.extent.context_tokens
        check_context(cell.shape, context_tokens, scenario.name, holds_windows=True)
        problem = step_problem(
            cell.profile,
            cell.shape,
            scenario.model.quantisation,
            read_tokens=scenario.run.batch * _read_tokens(cell, context_tokens),
            batch=scenario.run.batch,
        )
        if problem is not None:
            raise CalibrationError(f"{scenario.name}: {problem}")


def _read_tokens(cell: Cell, context_tokens: int) -> int:
    """Return the most tokens that a layer attends to of one sequence."""
    page_tokens = cell.scenario.page_tokens
    pages = pages_of(context_tokens, page_tokens)
    selector = cell.selector if cell.policy.attends == "selection" else None
    read_pages = pages if selector is None else selector.max_pages(pages)
    return min(read_pages * page_tokens, context_tokens)


def _asked(cell: Cell, context_tokens: int) -> Iterator[tuple[str, str, tuple[float, ...], float]]:
    """Yield (cost, what is counted, the measured points of that axis, the amount asked for)."""
    scenario, profile = cell.scenario, cell.profile
    batch = scenario.run.batch
    pages = pages_of(context_tokens, scenario.page_tokens)
    selector = cell.selector if cell.policy.attends == "selection" else None
    read_pages = pages if selector is None else selector.max_pages(pages)
    amounts = {"attention": batch * _read_tokens(cell, context_tokens), "select": batch * pages}
    for name in SEGMENTS:
        if name == "select" and selector is None:
            continue
        table = profile.segments[name].device
        if table.columns_are == "sequences":
            yield f"segments.{name}", "sequences", table.columns, batch
        if table.amount != "none" and name in amounts:
            yield f"segments.{name}", table.amount, table.amounts, amounts[name]
    if cell.holds_everything:
        return
    yield from _asked_of_decisions(cell, batch * read_pages, batch * pages * cell.shape.paged_layers)
    for direction, link, pieces in (
        ("link.to_device", profile.link.to_device.transfer, batch * read_pages),
        ("link.to_host", profile.link.to_host.transfer, 1),
    ):
        _check_page_size(cell, direction, link)
        yield direction, "bytes", link.columns, cell.page_bytes
        yield direction, "pieces", link.amounts, pieces


def _asked_of_decisions(
    cell: Cell, selected_pages: int, grid_pages: int
) -> Iterator[tuple[str, str, tuple[float, ...], float]]:
    name = cell.profile.decision_cost(cell.cost_name)
    table = cell.profile.policies[name]
    if table.amount == "none":
        return
    yield f"policies.{name}", "pages", table.amounts, selected_pages
    if len(table.columns) > 1:  # one column: its cost was found not to depend on the pages in all
        yield f"policies.{name}", "all pages", table.columns, grid_pages


def _check_page_size(cell: Cell, direction: str, table: CostTable) -> None:
    sizes = table.columns
    if len(sizes) > 1 or len(table.amounts) == 1 or sizes[0] / SLACK <= cell.page_bytes <= sizes[0] * SLACK:
        return
    raise CalibrationError(
        f"{cell.scenario.name}: profile {cell.profile.name!r} knows {_NAMES[direction]} for pages of "
        f"{format_bytes(round(sizes[0]))} only, pages of {cell.scenario.page_tokens} tokens have "
        f"{format_bytes(cell.page_bytes)}; calibrate without --quick, or use pages of that size"
    )
