from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest

from kvsim.experiments.decode.experiment import compare
from kvsim.experiments.types import Compared
from kvsim.report.results import load_result, records_parquet

REFERENCE = Path(__file__).parents[3] / "results" / "crosscheck_cpu"


@pytest.fixture(scope="module")
def compared() -> Compared:
    return compare(load_result(REFERENCE / "simulated"), load_result(REFERENCE / "measured"))


def test_parquet_and_csv_of_a_comparison_hold_the_same_cells(compared: Compared) -> None:
    parquet = pd.read_parquet(io.BytesIO(compared.files["compare.parquet"]))
    csv = pd.read_csv(io.BytesIO(compared.files["compare.csv"]))
    assert len(parquet) == compared.contents["num_cells"] == 36
    pd.testing.assert_frame_equal(parquet, csv, check_dtype=False)


def test_record_that_lacks_a_name_has_null_there() -> None:
    frame = pd.read_parquet(io.BytesIO(records_parquet([{"a": 1}, {"a": float("nan"), "b": "x"}])))
    assert frame["b"].tolist()[1] == "x"
    assert frame["b"].isna().tolist() == [True, False]
    assert frame["a"].isna().tolist() == [False, True]
