"""Result folders: whole or not there, byte-identical summaries, and damage told in one line."""

from __future__ import annotations

import json
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import ResultError
from kvsim.profile.provenance import make_manifest
from kvsim.report.results import (
    MANIFEST,
    ROWS,
    SUMMARY,
    RunResult,
    load_result,
    rows_parquet,
    summary_json,
    write_result,
)


def make_result(steps: int = 40) -> RunResult:
    generator = np.random.default_rng(5)
    summary = {
        "schema_version": 1,
        "scenario": "trial",
        "cells": [{"policy": "lru", "tpot_p50_s": np.float64(0.1) + 0.2, "hit_frac": None, "hits": np.int64(3)}],
        "verdict": ["ja"],
    }
    rows = {
        "cell": np.zeros(steps, dtype=np.int64),
        "policy": np.array(["lru"] * steps, dtype=object),
        "step": np.arange(steps),
        "context_tokens": 100 + np.arange(steps),
        "step_s": generator.random(steps),
        "is_warmup": np.arange(steps) < 3,
        "digest": generator.integers(0, 2**32, steps, dtype=np.uint32),
    }
    manifest = make_manifest(scenario_text="name = 'trial'", scenario_hash="abcd", seed=7, command="kvsim run trial")
    return RunResult(summary=summary, rows=rows, manifest=manifest)


@pytest.fixture
def written(tmp_path):
    return write_result(make_result(), tmp_path, {"latency.png": b"picture"})


def test_a_result_comes_back_as_it_was_written(written):
    result, back = make_result(), load_result(written)
    assert back.summary["cells"] == [{"policy": "lru", "tpot_p50_s": 0.1 + 0.2, "hit_frac": None, "hits": 3}]
    assert list(back.rows) == list(result.rows)
    for name, column in result.rows.items():
        assert back.rows[name].dtype == column.dtype
        assert (back.rows[name] == column).all()
    assert back.manifest["scenario"] == "name = 'trial'"
    assert (written / "latency.png").read_bytes() == b"picture"


COLUMNS = {
    "whole": np.arange(-2, 3),
    "every other": np.arange(10, dtype=np.int32)[::2],
    "unsigned": np.array([0, 2**32 - 1], dtype=np.uint32),
    "float": np.array([0.1, np.nan, np.inf]),
    "truth": np.array([True, False, True] * 5),
    "names": np.array(["lru", "", "é"]),
    "objects": np.array(["lru", "fifo"], dtype=object),
    "none": np.array(["lru", None], dtype=object),
    "empty": np.array([], dtype=np.float64),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_written_as_pyarrow_would(name):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: pa.array(COLUMNS[name])}), sink)
    assert rows_parquet({name: COLUMNS[name]}) == sink.getvalue().to_pybytes()


def test_it_lies_under_the_scenarios_name_and_the_run_id(written, tmp_path):
    assert written.parent == tmp_path / "trial"
    assert written.name.endswith("Z-abcd")


def test_two_results_of_one_second_do_not_overwrite_each_other(tmp_path):
    result = make_result()
    first, second, third = (write_result(result, tmp_path) for _ in range(3))
    assert len({first, second, third}) == 3
    assert load_result(third).summary == load_result(first).summary


def test_equal_summaries_are_equal_bytes_whatever_the_time_and_the_order(tmp_path):
    one, other = make_result(), make_result()
    other.manifest["run_id"], other.manifest["date"] = "later", "tomorrow"
    turned = RunResult(summary=dict(reversed(other.summary.items())), rows=other.rows, manifest=other.manifest)
    paths = [write_result(result, tmp_path) for result in (one, turned)]
    assert (paths[0] / SUMMARY).read_bytes() == (paths[1] / SUMMARY).read_bytes()
    assert "run_id" not in (paths[0] / SUMMARY).read_text()


@given(st.floats())
def test_a_number_survives_or_is_null(value):
    back = json.loads(summary_json({"x": [value]}))["x"][0]
    assert back == value if np.isfinite(value) else back is None


def test_the_manifest_says_what_a_reader_needs_to_make_it_again():
    manifest = make_result().manifest
    assert manifest["versions"].keys() >= {"kvsim", "python", "numpy", "pyarrow"}
    assert manifest["machine"].keys() == {"host", "os", "processor", "num_cpus"}
    assert (manifest["seed"], manifest["scenario_hash"], manifest["command"]) == (7, "abcd", "kvsim run trial")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match=r"cannot write the result: Not a directory\Z"):
        write_result(make_result(), tmp_path / "file")


@pytest.mark.parametrize("limit_bytes", [10, 2000])
def test_a_disk_that_fills_up_leaves_nothing(tmp_path, limit_bytes):
    """The limit on the size of a file stops the write of the summary, and then that of the rows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    result = make_result(steps=5000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        with pytest.raises(ResultError) as caught:
            write_result(result, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_breaks_in_the_middle_leaves_the_older_results(written, tmp_path):
    result = make_result()
    broken = RunResult(summary=result.summary | {"odd": object()}, rows=result.rows, manifest=result.manifest)
    with pytest.raises(TypeError):
        write_result(broken, tmp_path)
    assert list((tmp_path / "trial").iterdir()) == [written]


@pytest.mark.parametrize("name", [MANIFEST, SUMMARY, ROWS])
def test_a_missing_file_is_told(written, name):
    (written / name).unlink()
    with pytest.raises(ResultError, match=name):
        load_result(written)


@pytest.mark.parametrize("name", [MANIFEST, SUMMARY, ROWS])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_told(written, name, share):
    content = (written / name).read_bytes()
    (written / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ResultError) as caught:
        load_result(written)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), name=st.sampled_from([SUMMARY, ROWS]))
def test_a_flipped_bit_is_told(tmp_path_factory, place, bit, name):
    written = write_result(make_result(), tmp_path_factory.mktemp("flip"))
    content = bytearray((written / name).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    (written / name).write_bytes(content)
    with pytest.raises(ResultError, match="damaged"):
        load_result(written)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\0"])
def test_a_manifest_that_is_none_is_one_line(written, text):
    (written / MANIFEST).write_text(text)
    with pytest.raises(ResultError) as caught:
        load_result(written)
    assert "\n" not in str(caught.value)


def test_another_schema_version_is_refused(written):
    manifest = json.loads((written / MANIFEST).read_text())
    (written / MANIFEST).write_text(json.dumps(manifest | {"schema_version": 99}))
    with pytest.raises(ResultError, match="schema_version 99, this kvsim reads 1"):
        load_result(written)


def test_the_folder_above_names_the_latest_run(written):
    with pytest.raises(ResultError, match=f"did you mean {written}"):
        load_result(written.parent)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ResultError, match="no such result folder"):
        load_result(tmp_path / "none")
