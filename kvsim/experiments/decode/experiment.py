"""What the experiment offers, for the registry: the pages of a KV cache that does not fit, step by step in decode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvsim.errors import ScenarioError
from kvsim.experiments.decode.crosscheck import accesses_in
from kvsim.experiments.decode.report.compare import compare as compare_cells
from kvsim.experiments.decode.report.compare import compare_out_of_sample as compare_cells_out_of_sample
from kvsim.experiments.decode.report.compare_tables import compared_in_sample, compared_out_of_sample
from kvsim.experiments.decode.report.figures import figures_of
from kvsim.experiments.decode.report.page import parts
from kvsim.experiments.decode.report.table import first_columns, text_table, verdict_text
from kvsim.experiments.decode.simulate import check, simulate, warnings
from kvsim.experiments.types import Experiment
from kvsim.policies.baselines import PEERS
from kvsim.report.comparison import Compared
from kvsim.report.results import RunResult
from kvsim.scenario.decode import Scenario


def show(summary: Mapping[str, Any]) -> str:
    """Return the table of the cells, and the verdict where the summary was simulated."""
    if summary.get("is_measured"):
        return text_table(summary)
    return f"{text_table(summary)}\n\n{verdict_text(summary)}"


def compare(simulated: RunResult, measured: RunResult) -> Compared:
    """Compare counts and times, cell by cell; see `kvsim.experiments.decode.report.compare.compare`."""
    return compared_in_sample(compare_cells(simulated, measured))


def check_simulated(scenario: Scenario) -> None:
    """Refuse somebody else's cache, where it is to be simulated as well.

    Raises
    ------
    ScenarioError
        Naming it.
    """
    for choice in scenario.run.policies:
        if choice.name in PEERS:
            raise ScenarioError(
                f"{scenario.name}: policy {choice.name!r}: a peer to measure, not a policy: `kvsim measure` runs it, "
                "nothing simulates it; leave it out of run.policies here"
            )


def check_accesses(scenario: Scenario, place: Path) -> None:
    """Refuse a place that has not the accesses of every cell; see `kvsim.experiments.decode.crosscheck.accesses_in`."""
    find = accesses_in(place)
    for cell in scenario.cells:
        find(cell)


def compare_out_of_sample(
    simulated: RunResult, measured: RunResult, in_sample: Mapping[str, Any] | None = None
) -> Compared:
    """Compare what was simulated on other accesses than were measured."""
    return compared_out_of_sample(compare_cells_out_of_sample(simulated, measured), in_sample)


EXPERIMENT: Experiment[Scenario] = Experiment(
    check=check,
    warnings=warnings,
    simulate=simulate,
    show=show,
    first_columns=first_columns,
    figures=figures_of,
    parts=parts,
    compare=compare,
    replays_recorded=True,
    check_simulated=check_simulated,
    check_accesses=check_accesses,
    compare_out_of_sample=compare_out_of_sample,
)
