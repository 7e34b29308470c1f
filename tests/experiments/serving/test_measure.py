"""Measuring serving and comparing with it, on a stand-in that schedules as vLLM does and has a clock of its own."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from kvsim.calibration.serving import calibrate_serving
from kvsim.errors import ResultError, ScenarioError
from kvsim.experiments.registry import load_measurement
from kvsim.experiments.serving.compare import TARGETS, compare
from kvsim.experiments.serving.costs import platform_of
from kvsim.experiments.serving.draws import NUM_DRAWS, _scales
from kvsim.experiments.serving.measure import measure
from kvsim.experiments.serving.run import run_cell
from kvsim.experiments.serving.simulate import simulate
from kvsim.experiments.serving.speed import speeds_of
from kvsim.experiments.serving.traffic import make_traffic
from kvsim.experiments.types import Job
from kvsim.profile.profile import load_profile, write_profile
from kvsim.report.results import load_result, write_result
from kvsim.scenario.shipped import find_profile
from tests.engine.vllm.conftest import stand_in, write_stand_in  # noqa: F401
from tests.experiments.serving.tiny import scenario

MEASURED = {
    "model__path": "model",
    "generated__num_sessions": 30,
    "generated__shared_tokens": 64,
    "arrivals__rate_hz": 8.0,
    "engine__max_model_len": 512,
    "engine__num_gpu_blocks_override": 40,
    "measure": {"repeats": 2},
    "slo": {"ttft_s": 1.0},
    "sweep": {"arrivals.rate_hz": [4.0, 20.0]},
}


@pytest.fixture(scope="module")
def costs(tmp_path_factory):
    """Return costs calibrated on the stand-in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVSIM_VLLM", str(write_stand_in(tmp_path_factory.mktemp("python"))))
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
        return calibrate_serving("model", quick=True)


@pytest.fixture
def calibrated(costs, stand_in, tmp_path):  # noqa: F811
    """Return a scenario whose profile has these costs."""
    own = load_profile(find_profile("cpu-smollm2-135m"))
    path = tmp_path / "stand-in.toml"
    write_profile(own.model_copy(update={"serving": costs}), path)
    return scenario(**MEASURED, profile__path=str(path))


@pytest.fixture
def folder(calibrated, tmp_path):
    measured, files = measure(calibrated, Job())
    return write_result(measured, tmp_path / "measured", files)


def test_calibrated_measured_and_simulated_agree_where_the_engine_has_our_clock(calibrated, tmp_path):
    measured, files = measure(calibrated, Job())
    assert len(files) == 4 and measured.summary["is_measured"]
    folder = write_result(measured, tmp_path / "measured", files)
    simulated = simulate(calibrated, Job(recorded=folder))
    assert [one["difference"] for one in simulated.summary["schedules"]] == [None] * 4
    assert [cell["step_time_ratio"] for cell in simulated.summary["cells"]] == pytest.approx([1.0] * 2, rel=0.01)
    compared = compare(simulated, load_result(folder))
    assert compared.contents["counts_equal"]
    errors = {row["figure"]: row["error_frac"] for row in compared.contents["figures"]}
    assert set(errors) == set(TARGETS) and max(map(abs, errors.values())) < 0.03
    assert compared.contents["targets_met"] == len(compared.contents["figures"]) == 14
    assert "schedules: equal in all" in compared.text and "targets: 14 of 14 met" in compared.text
    assert min(compared.contents["null_factor"].values()) > 3
    assert set(compared.missed) <= {"interval"}  # costs of a clock are exact, so hardly any figure lies in its interval
    assert compared.files["compare.png"].startswith(b"\x89PNG")


def test_a_machine_that_became_slower_is_simulated_at_the_speed_of_the_requests_between_the_runs(calibrated, tmp_path):
    measured, files = measure(calibrated, Job())
    probes = measured.tables["probes"]
    slow = np.where(probes["cell"] == 1, np.where(probes["is_after"], 1.3, 1.1), 1.0)
    tables = measured.tables | {"probes": probes | {"time_s": slow * probes["time_s"]}}
    folder = write_result(replace(measured, tables=tables), tmp_path / "measured", files)
    plain = simulate(calibrated, Job()).summary["cells"]
    cells = simulate(calibrated, Job(recorded=folder)).summary["cells"]
    assert [cell["step_time_ratio"] for cell in cells] == pytest.approx([1.0, 1.2], rel=0.01)
    assert "step_time_ratio" not in plain[0]
    for name in ("alone", "m_d_1"):
        ratios = [
            one["nulls"][name]["tpot_p50_s"] / other["nulls"][name]["tpot_p50_s"]
            for one, other in zip(cells, plain, strict=True)
        ]
        assert ratios == pytest.approx([1.0, 1.2], rel=0.01)
    assert cells[0]["tpot_p50_s"] == pytest.approx(plain[0]["tpot_p50_s"], rel=0.02)
    assert cells[1]["tpot_p50_s"] > 1.15 * plain[1]["tpot_p50_s"]
    low_s, high_s = cells[0]["intervals"]["itl_mean_s"]
    half_frac = 1.645 * np.sqrt(np.mean(np.square([0, (1.3 / 1.1 - 1) / 2]))) / np.sqrt(2)
    assert (high_s - low_s) / cells[0]["itl_mean_s"] == pytest.approx(2 * half_frac, rel=0.5)


def test_the_speed_leaves_out_what_the_spread_of_steps_adds(folder, costs):
    skewed = costs.model_copy(update={"step_residuals_frac": (0.0, 0.0, 0.4)})
    with_spread, without = (speeds_of(folder, skewed, has_spread=has)[0].step_time_ratio for has in (True, False))
    assert without == pytest.approx(1.0, rel=0.01) and with_spread == pytest.approx(without / 1.1)


def test_figures_of_a_measured_scenario_are_medians_over_draws_within_their_intervals(calibrated, costs, tmp_path):
    spread = costs.model_copy(
        update={"step_residuals_frac": (-0.3, 0.0, 0.3), "error_frac": 0.05, "part_error_frac": 0.0}
    )
    path = tmp_path / "spread.toml"
    write_profile(load_profile(Path(calibrated.profile.path)).model_copy(update={"serving": spread}), path)
    own = scenario(**(MEASURED | {"sweep": None}), profile__path=str(path))
    traffic, platform = make_traffic(own, None), platform_of(own, None)
    (cell,) = simulate(own, Job()).summary["cells"]
    singles = [run_cell(own, traffic, platform, draw=draw).figures["e2e_p50_s"] for draw in range(NUM_DRAWS)]
    assert len(set(singles)) > NUM_DRAWS / 2 and run_cell(own, traffic, platform).figures["e2e_p50_s"] == singles[0]
    assert cell["e2e_p50_s"] == pytest.approx(np.median(singles), rel=0.02)
    low_s, high_s = cell["intervals"]["itl_mean_s"]
    assert low_s < cell["itl_mean_s"] < high_s
    assert (high_s - low_s) / cell["itl_mean_s"] == pytest.approx(0.1, rel=0.4)
    assert any("medians over draws" in line for line in simulate(own, Job()).summary["verdict"])


@pytest.mark.parametrize(("low_frac", "high_frac"), [(-0.05, 0.05), (-0.99, 2.0), (-0.1, 0.0)])
def test_nine_of_ten_draws_have_costs_within_the_interval_and_all_take_time(low_frac, high_frac):
    scales = np.array(_scales(low_frac, high_frac))
    assert scales.size == NUM_DRAWS and np.all(scales > 0) and np.median(scales) == 1.0
    low, high = np.quantile(scales, [0.05, 0.95], method="hazen")
    assert low == pytest.approx(1 + low_frac, rel=0.1) and high == pytest.approx(1 + high_frac, rel=0.1)


def test_a_profile_put_together_from_other_tables_is_not_scaled_to_the_machine(folder):
    shipped = scenario(**MEASURED)
    assert load_profile(find_profile("cpu-smollm2-135m")).serving is None
    cells = simulate(shipped, Job(recorded=folder)).summary["cells"]
    assert not any("step_time_ratio" in cell for cell in cells)


def test_a_schedule_that_was_changed_is_located(calibrated, folder):
    name = "schedule-0-0.json.gz"
    content = json.loads(gzip.decompress((folder / name).read_bytes()))
    content["steps"][3]["free_blocks"] += 1
    (folder / name).write_bytes(gzip.compress(json.dumps(content).encode()))
    simulated = simulate(calibrated, Job(recorded=folder))
    differences = {one["file"]: one["difference"] for one in simulated.summary["schedules"]}
    assert "step 3: free_blocks" in differences.pop(name) and set(differences.values()) == {None}
    compared = compare(simulated, load_result(folder))
    assert "schedules: 1 of 4 runs differ; schedule-0-0.json.gz: step 3" in compared.text
    assert "schedules equal" in compared.missed


def test_a_crosscheck_times_the_engine_once_and_uses_that_again(stand_in, tmp_path):  # noqa: F811
    said = []
    fresh_profile = load_measurement("serving").fresh_profile
    options = {"say": said.append, "progress": lambda *_: None, "cost_tables": ()}
    tiny = scenario(**MEASURED)
    path = fresh_profile(tiny, Job(), tmp_path, recalibrate=None, **options)
    assert load_profile(path).serving.engine == "vLLM 0.32.0, 1 thread"
    written = path.read_bytes()
    assert fresh_profile(tiny, Job(), tmp_path, recalibrate=None, **options) == path
    assert path.read_bytes() == written and "used again" in said[-1]
    assert fresh_profile(tiny, Job(), tmp_path, recalibrate=False, **options) is None


def test_costs_calibrated_on_the_stand_in_are_its_clock(costs):
    for tokens in (1, 40, 300):
        step_s = costs.host.at_s(1) + costs.tokens.at_s(tokens)
        assert step_s == pytest.approx(0.011 + 1e-4 * tokens, rel=0.01)
    assert costs.run_error_frac(0.0) < 0.01


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"measure": None}, r"no \[measure\]"),
        ({"engine__scheduler": "static"}, "only 'vllm' is measured"),
        ({"arrivals": {"process": "closed-loop", "users": 2}, "sweep": None}, "follow the end of others"),
        ({"engine__async_scheduling": True}, "engine.async_scheduling = True, and vLLM made False of it"),
        ({"model__path": None}, "no model.path"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(stand_in, changes, problem):  # noqa: F811
    with pytest.raises(ScenarioError, match=problem) as refusal:
        measure(scenario(**(MEASURED | changes)), Job())
    assert "\n" not in str(refusal.value)


def test_a_folder_without_schedules_is_refused(tmp_path):
    with pytest.raises(ResultError, match=r"no schedule-\*\.json\.gz"):
        simulate(scenario(**(MEASURED | {"sweep": None})), Job(recorded=Path(tmp_path)))


def test_rows_of_all_runs_are_kept(calibrated):
    measured, _ = measure(calibrated, Job())
    rows = measured.rows
    assert rows["cell"].size == 2 * 2 * 30
    assert np.unique(rows["repeat"]).tolist() == [0, 1]
