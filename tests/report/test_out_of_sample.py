from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvsim.errors import ResultError
from kvsim.experiments.decode.report.compare import Comparison, compare, compare_out_of_sample
from kvsim.experiments.decode.report.compare_tables import compared_out_of_sample, out_of_sample_text
from kvsim.report.results import RunResult, load_result

REFERENCE = Path(__file__).parents[2] / "results" / "crosscheck_cpu"


@pytest.fixture(scope="module")
def measured() -> RunResult:
    return load_result(REFERENCE / "measured")


@pytest.fixture(scope="module")
def simulated() -> RunResult:
    return load_result(REFERENCE / "simulated")


def with_cells(result: RunResult, change: Any) -> RunResult:
    """Return `result` with `change` of each of its summary's cells, and a manifest that names other accesses."""
    cells = [change(dict(cell)) for cell in result.summary["cells"]]
    manifest = result.manifest | {"accesses": {"other.kvtrace": "0"}}
    return RunResult(summary=result.summary | {"cells": cells}, rows=result.rows, manifest=manifest)


def fewer_hits(cell: dict[str, Any]) -> dict[str, Any]:
    if cell["policy"] == "lru":
        cell |= {"hit_frac": cell["hit_frac"] - 0.04, "misses": 2 * cell["misses"]}
    return cell


def test_errors_of_counts_are_those_of_the_cells_that_select(simulated: RunResult, measured: RunResult) -> None:
    found = compare_out_of_sample(with_cells(simulated, fewer_hits), measured)
    figures = found.figures
    lru = [cell for cell in found.cells if cell["policy"] == "lru"]
    assert [round(cell["hit_error_points"], 9) for cell in lru] == [-4.0] * 9
    assert [cell["misses_error_frac"] for cell in lru] == pytest.approx([1.0] * 9)
    assert {cell["policy"] for cell in found.cells if cell["is_selecting"]} == {"lru", "attention"}
    assert figures["out_of_sample_hit_error_points"] == pytest.approx(2.0)  # nine of 4 points, nine of none
    assert figures["out_of_sample_hit_worst_error_points"] == pytest.approx(4.0)
    assert figures["out_of_sample_misses_median_error_frac"] == pytest.approx(0.5)


def test_times_have_the_errors_that_they_have_in_sample(simulated: RunResult, measured: RunResult) -> None:
    inside = compare(simulated, measured).figures
    outside = compare_out_of_sample(with_cells(simulated, dict), measured).figures
    for name in ("tpot_median_error_frac", "tpot_worst_error_frac", "added_median_error_frac", "kendall_tau"):
        assert outside[f"out_of_sample_{name}"] == inside[name]


def test_counts_are_never_called_equal(simulated: RunResult, measured: RunResult) -> None:
    found = compare_out_of_sample(with_cells(simulated, dict), measured)
    assert not any("equal" in name for name in found.figures)
    assert all(name.startswith("out_of_sample_") for name in found.figures)
    assert "counts equal" not in out_of_sample_text(found)


def test_part_of_what_was_measured_will_do_and_each_cell_finds_its_own(
    simulated: RunResult, measured: RunResult
) -> None:
    """A capture of one context stands for the cells of that context."""
    kept = [number for number, cell in enumerate(simulated.summary["cells"]) if cell["context_tokens"] > 4000]
    rows = {name: column[np.isin(simulated.rows["cell"], kept)] for name, column in simulated.rows.items()}
    renumbered = {number: place for place, number in enumerate(kept)}
    rows["cell"] = np.array([renumbered[number] for number in rows["cell"].tolist()])
    cells = [simulated.summary["cells"][number] for number in kept]
    part = RunResult(summary=simulated.summary | {"cells": cells}, rows=rows, manifest={})
    found = compare_out_of_sample(part, measured)
    whole = {cell["cell"]: cell for cell in compare(simulated, measured).cells}
    assert [cell["cell"] for cell in found.cells] == kept
    for cell in found.cells:
        assert cell["tpot_error_frac"] == whole[cell["cell"]]["tpot_error_frac"]
        assert cell["attention_measured_s"] == whole[cell["cell"]]["attention_measured_s"]


def test_cell_that_was_not_measured_is_named(simulated: RunResult, measured: RunResult) -> None:
    def longer(cell: dict[str, Any]) -> dict[str, Any]:
        return cell | {"context_tokens": cell["context_tokens"] + 1}

    with pytest.raises(
        ResultError, match=r"no such cell was measured: policy = resident, .* context_tokens = 1029"
    ) as it:
        compare_out_of_sample(with_cells(simulated, longer), measured)
    assert "\n" not in str(it.value)


def test_same_accesses_are_compared_in_sample_and_others_are_not(simulated: RunResult, measured: RunResult) -> None:
    recorded = RunResult(
        summary=measured.summary,
        rows=measured.rows,
        manifest=measured.manifest | {"files": {"a.kvtrace": "1", "b.kvtrace": "2", "rows.parquet": "3"}},
    )

    def replaying(digest: str) -> RunResult:
        return RunResult(
            summary=simulated.summary,
            rows=simulated.rows,
            manifest=simulated.manifest | {"accesses": {"a.kvtrace": digest}},
        )

    assert compare(replaying("1"), recorded).divergence is None
    with pytest.raises(ResultError, match="it is in sample: compare without --out-of-sample"):
        compare_out_of_sample(replaying("1"), recorded)
    with pytest.raises(ResultError, match=r"replayed other accesses \(a.kvtrace\).*--out-of-sample"):
        compare(replaying("3"), recorded)
    assert compare_out_of_sample(replaying("3"), recorded).accesses == ("a.kvtrace",)


def test_two_measured_or_two_simulated_results_are_refused(simulated: RunResult, measured: RunResult) -> None:
    with pytest.raises(ResultError, match="the second result was simulated"):
        compare_out_of_sample(simulated, simulated)
    with pytest.raises(ResultError, match="the first result was measured"):
        compare_out_of_sample(measured, measured)


def test_table_sets_the_error_in_sample_beside(simulated: RunResult, measured: RunResult) -> None:
    inside = compare(simulated, measured)
    found: Comparison = compare_out_of_sample(with_cells(simulated, fewer_hits), measured)
    text = out_of_sample_text(found, inside.figures | {"cells": inside.cells})
    assert "in sample" in text
    row = next(line for line in text.splitlines() if line.startswith("lru"))
    error = f"{100 * inside.cells[2]['tpot_error_frac']:+.1f}%"
    assert row.split()[-1] == row.split()[-2] == error
    assert "-4.0" in row
    done = compared_out_of_sample(found, inside.figures | {"cells": inside.cells})
    assert done.text == text
    assert {name.partition(".")[0] for name in done.files} == {"out_of_sample"}
    assert done.files["out_of_sample.png"].startswith(b"\x89PNG")
