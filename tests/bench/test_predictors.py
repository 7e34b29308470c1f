"""The predictors' table: equal bytes, bounds that bound, recall as one would count it by hand, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import joblib
import numpy as np
import pytest
from predictors import main
from predictors_parts import compare as predictors
from predictors_parts.compare import (
    Comparison,
    Record,
    compare_predictors,
    parse_budget,
    result_of,
    with_speculation,
)
from predictors_parts.report import predictors_text, predictors_verdict

from kvsim.cli import run_command
from kvsim.errors import ScenarioError
from kvsim.policies.selectors import TopK, middle_of
from kvsim.report.results import load_result, write_result
from kvsim.scenario.shipped import find_capture
from kvsim.traces import open_trace
from kvsim.traces.access.file import TraceWriter
from kvsim.types import pages_of
from tests.accesses import make_profile

NUM_STEPS = 24
JUDGED = ("lru", "previous-step", "corrected", "belady", "oracle-prefetch")


def first_steps(capture: Path, num_steps: int, path: Path) -> Path:
    """Write the first steps of a capture to `path`, and return it."""
    file = open_trace(capture)
    with TraceWriter(path, file.header) as writer:
        for step in range(num_steps):
            writer.append(file.context_tokens(step).tolist(), dict(file.record(step)))
    return path


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captures")
    return first_steps(find_capture("smollm2-code", Path.cwd()), NUM_STEPS, folder / "short.kvtrace")


@pytest.fixture(scope="module")
def comparison(capture: Path) -> Comparison:
    return Comparison(
        captures=(str(capture),), profiles=("cpu-smollm2-135m",), budgets=((12, 1.25),), tuned_on="smollm2-docs"
    )


@pytest.fixture(scope="module")
def records(comparison: Comparison) -> list[Record]:
    chosen = tuple(one for one in predictors.PREDICTORS if one.name in JUDGED)
    with pytest.MonkeyPatch.context() as patch, joblib.parallel_config(backend="sequential"):
        patch.setattr(predictors, "PREDICTORS", chosen)
        return compare_predictors(comparison)


def _of(records: list[Record], name: str) -> Record:
    (record,) = [record for record in records if record["predictor"] == name]
    return record


def test_all_that_prefetch_move_the_wanted_bytes(records: list[Record]) -> None:
    assert _of(records, "lru")["moved_vs_lru_frac"] == 1
    for name in ("previous-step", "corrected"):
        assert _of(records, name)["moved_vs_lru_frac"] == pytest.approx(1.25, abs=0.04)


def test_no_predictor_beats_the_bounds(records: list[Record]) -> None:
    assert _of(records, "belady")["misses"] < _of(records, "lru")["misses"]
    assert _of(records, "belady")["prefetched"] == 0
    oracle = _of(records, "oracle-prefetch")
    assert oracle["selection_recall_frac"] == 1
    for name in JUDGED[:4]:
        assert _of(records, name)["misses"] > oracle["misses"]
        assert _of(records, name)["stall_s@cpu-smollm2-135m"] > oracle["stall_s@cpu-smollm2-135m"]


def test_recall_of_the_previous_step_is_the_share_of_a_selection_that_was_in_the_one_before(
    records: list[Record], capture: Path
) -> None:
    file = open_trace(capture)
    selector = TopK(k_pages=8, sink_pages=predictors.SINK_PAGES, recent_pages=predictors.RECENT_PAGES)

    def middle(step: int, layer: int) -> set[int]:
        total = pages_of(int(file.context_tokens(step)[0]), predictors.PAGE_TOKENS)
        first, last = middle_of(total, predictors.SINK_PAGES, predictors.RECENT_PAGES)
        scores = file.scores(step, layer, predictors.CHANNEL, predictors.PAGE_TOKENS)[0]
        return {page for page in selector.select(scores, total).tolist() if first <= page < last}

    steps = range(predictors.WARMUP_STEPS, NUM_STEPS)
    found = [
        len(middle(step, layer) & middle(step - 1, layer)) / len(middle(step, layer))
        for step in steps
        for layer in range(file.num_layers)
    ]
    recall_frac = _of(records, "previous-step")["selection_recall_frac"]
    # A page that slides into the middle was read as a recent one before, and the prefetcher could not know.
    assert recall_frac == pytest.approx(float(np.mean(found)), abs=0.01)


def test_predicting_with_corrected_speculation_finds_more_and_stalls_less(records: list[Record]) -> None:
    ours, base = _of(records, "corrected"), _of(records, "previous-step")
    assert ours["selection_recall_frac"] > base["selection_recall_frac"]
    assert ours["misses_avoided_frac"] > base["misses_avoided_frac"]
    assert ours["stall_s@cpu-smollm2-135m"] < base["stall_s@cpu-smollm2-135m"]
    assert ours["select_s@cpu-smollm2-135m"] > base["select_s@cpu-smollm2-135m"]


def test_the_table_is_a_result_that_a_folder_holds(
    records: list[Record], comparison: Comparison, tmp_path: Path
) -> None:
    result = result_of(comparison, records, verdict=predictors_verdict(records), command="python bench/predictors.py")
    read = load_result(write_result(result, tmp_path))
    assert read.summary["verdict"] == predictors_verdict(records)
    assert [cell["predictor"] for cell in read.summary["cells"]] == list(JUDGED)
    assert predictors_text(read.summary["cells"]) == predictors_text(records)


@pytest.mark.parametrize("text", ["12", "x:1.5", "0:1.5", "12:1", "12:nan"])
def test_a_budget_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ScenarioError, match="--budget"):
        parse_budget(text)


def test_a_capture_too_short_for_the_warm_up_is_refused(capture: Path, tmp_path: Path) -> None:
    path = first_steps(capture, predictors.WARMUP_STEPS + 1, tmp_path / "few.kvtrace")
    with pytest.raises(ScenarioError, match="has 9 steps; the table needs more than 9"):
        compare_predictors(Comparison(captures=(str(path),)))


def test_where_speculation_was_not_measured_scoring_and_attention_input_stand_in() -> None:
    profile = make_profile()
    assert with_speculation(profile) is profile
    unmeasured = profile.model_copy(
        update={"segments": {name: cost for name, cost in profile.segments.items() if name != "speculate"}}
    )
    cost = with_speculation(unmeasured).segments["speculate"].device.at_s(1, sequences=1)
    select, entry = (unmeasured.segments[name].device.at_s(1, sequences=1) for name in ("select", "attention_input"))
    assert cost == pytest.approx(select + entry)


def test_the_command_prints_the_records_and_writes_table_and_picture(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predictors, "PREDICTORS", predictors.PREDICTORS[:2])
    arguments = ["--capture", str(capture), "--budget", "12:1.25", "-o", str(tmp_path), "--json"]
    with joblib.parallel_config(backend="sequential"):
        assert main(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [cell["predictor"] for cell in summary["cells"]] == ["lru", "previous-step"]
    (folder,) = (tmp_path / "predictors").iterdir()
    assert "| previous-step |" in (folder / "table.md").read_text()
    assert run_command(["show", str(folder)]) == 2
    assert "read table.md in its folder" in capsys.readouterr().err
    assert (folder / "predictors.png").read_bytes().startswith(b"\x89PNG")
