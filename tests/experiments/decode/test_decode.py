from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kvsim.experiments.decode.experiment import compare
from kvsim.report.comparison import Compared
from kvsim.report.results import RunResult, load_result, records_parquet

REFERENCE = Path(__file__).parents[3] / "results" / "crosscheck_cpu"


@pytest.fixture(scope="module")
def results() -> tuple[RunResult, RunResult]:
    return load_result(REFERENCE / "simulated"), load_result(REFERENCE / "measured")


@pytest.fixture(scope="module")
def compared(results: tuple[RunResult, RunResult]) -> Compared:
    return compare(*results)


def test_parquet_and_csv_of_a_comparison_hold_every_measured_cell(
    compared: Compared, results: tuple[RunResult, RunResult]
) -> None:
    parquet = pd.read_parquet(io.BytesIO(compared.files["compare.parquet"]))
    csv = pd.read_csv(io.BytesIO(compared.files["compare.csv"]))
    simulated, measured = (result.summary["cells"] for result in results)
    assert len(parquet) == compared.contents["num_cells"] == len(measured) == len(simulated) > 0
    assert sorted(parquet["policy"]) == sorted(cell["policy"] for cell in measured)
    assert parquet["tpot_measured_s"].tolist() == [float(np.median(cell["tpot_repeats_s"])) for cell in measured]
    pd.testing.assert_frame_equal(parquet, csv, check_dtype=False)


def test_record_that_lacks_a_name_has_null_there() -> None:
    frame = pd.read_parquet(io.BytesIO(records_parquet([{"a": 1}, {"a": float("nan"), "b": "x"}])))
    assert frame["b"].tolist()[1] == "x"
    assert frame["b"].isna().tolist() == [True, False]
    assert frame["a"].isna().tolist() == [False, True]
