"""What the experiment offers, for the registry: the pages of a KV cache that does not fit, step by step in decode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvsim.errors import ScenarioError
from kvsim.experiments.decode.crosscheck import accesses_in, verdict_lines
from kvsim.experiments.decode.report.compare import Comparison
from kvsim.experiments.decode.report.compare import compare as compare_cells
from kvsim.experiments.decode.report.compare_tables import cells_csv, compare_figure, compare_text
from kvsim.experiments.decode.report.figures import figures_of
from kvsim.experiments.decode.report.out_of_sample import compare_out_of_sample as out_of_sample
from kvsim.experiments.decode.report.out_of_sample_tables import out_of_sample_figure, out_of_sample_text
from kvsim.experiments.decode.report.table import text_table, verdict_text
from kvsim.experiments.decode.simulate import check, simulate, warnings
from kvsim.experiments.types import Compared, Experiment
from kvsim.policies.baselines import PEERS
from kvsim.report.results import RunResult, records_parquet, summary_json
from kvsim.report.style import png
from kvsim.scenario.decode import Scenario


def show(summary: Mapping[str, Any]) -> str:
    """Return the table of the cells, and the verdict where the summary was simulated."""
    if summary.get("is_measured"):
        return text_table(summary)
    return f"{text_table(summary)}\n\n{verdict_text(summary)}"


def compare(simulated: RunResult, measured: RunResult) -> Compared:
    """Compare counts and times, cell by cell; see `kvsim.experiments.decode.report.compare.compare`."""
    return compared(compare_cells(simulated, measured))


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
    """Compare what was simulated on other accesses than were measured; see `out_of_sample`."""
    found = out_of_sample(simulated, measured)
    contents = found.figures | {"out_of_sample_accesses": found.accesses, "out_of_sample_cells": found.cells}
    return Compared(
        contents=contents,
        text=out_of_sample_text(found, in_sample),
        files={
            "out_of_sample.png": png(out_of_sample_figure(found)),
            "out_of_sample.csv": cells_csv(found.cells).encode(),
            "out_of_sample.parquet": records_parquet(found.cells),
            "out_of_sample.json": summary_json(contents).encode(),
        },
    )


def compared(found: Comparison) -> Compared:
    """Return a comparison as a command shows and keeps it."""
    contents: dict[str, Any] = found.figures | {"cells": found.cells}
    lines = [compare_text(found)]
    if found.divergence is not None:
        contents |= {"divergence": str(found.divergence)}
        lines.append(f"first divergence: {found.divergence}")
    return Compared(
        contents=contents,
        text="\n".join([*lines, *verdict_lines(found.figures)]),
        files={
            "compare.png": png(compare_figure(found)),
            "compare.csv": cells_csv(found.cells).encode(),
            "compare.parquet": records_parquet(found.cells),
            "compare.json": summary_json(contents).encode(),
        },
    )


EXPERIMENT: Experiment[Scenario] = Experiment(
    check=check,
    warnings=warnings,
    simulate=simulate,
    show=show,
    figures=figures_of,
    compare=compare,
    check_simulated=check_simulated,
    check_accesses=check_accesses,
    compare_out_of_sample=compare_out_of_sample,
)
