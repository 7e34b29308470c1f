"""A result records what made it, and two results that were made from different contents are not compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvsim.errors import ResultError
from kvsim.experiments.provenance import inputs_of
from kvsim.experiments.registry import EXPERIMENTS, compare_results, load_scenario, load_tree
from kvsim.experiments.types import Job
from kvsim.report.results import RunResult, load_result
from kvsim.scenario.digest import file_digest
from kvsim.scenario.shipped import find_profile, shipped_scenarios

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("name", shipped_scenarios())
def test_what_a_shipped_scenario_reads_is_found_with_a_digest(name: str) -> None:
    loaded = load_scenario(shipped_scenarios()[name])
    inputs = inputs_of(loaded.scenario, Job(base_dir=loaded.base_dir), is_measured=False)
    assert all(one.digest for one in inputs)
    profiles = {one.name: one.digest for one in inputs if one.role == "profile"}
    assert profiles == {used: file_digest(find_profile(used, loaded.base_dir)) for used in profiles}
    makes_its_own = loaded.experiment == "kv-on-off" or loaded.scenario.value_at("generated") is not None
    assert len(inputs) > len(profiles) or makes_its_own


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_names_its_profile_and_fields_that_exist(name: str) -> None:
    tree = load_tree(name)
    assert tree.inputs["profile.path"] == "profile"
    for dotted in tree.inputs:
        assert dotted.partition(".")[0] in tree.model_fields


def recorded(result: RunResult, digest: str) -> RunResult:
    profile = {"role": "profile", "name": "p", "digest": digest, "covers": "the whole file"}
    return RunResult(summary=result.summary, rows=result.rows, manifest=result.manifest | {"inputs": [profile]})


@pytest.fixture(scope="module")
def pair() -> tuple[RunResult, RunResult]:
    folder = RESULTS / "crosscheck_cpu"
    return load_result(folder / "simulated"), load_result(folder / "measured")


def test_results_of_two_contents_of_one_profile_are_not_compared(pair: tuple[RunResult, RunResult]) -> None:
    simulated, measured = pair
    with pytest.raises(ResultError, match=r"profile 'p' changed between the two results \(digest 1 when simulated, 2"):
        compare_results(recorded(simulated, "1"), recorded(measured, "2"))
    compared = compare_results(recorded(simulated, "1"), recorded(measured, "1"))
    assert "does not record" not in compared.text and "notes" not in compared.contents


def without_inputs(result: RunResult) -> RunResult:
    manifest = {name: value for name, value in result.manifest.items() if name != "inputs"}
    return RunResult(summary=result.summary, rows=result.rows, manifest=manifest)


def test_older_results_are_compared_with_a_note(pair: tuple[RunResult, RunResult]) -> None:
    simulated, measured = pair
    compared = compare_results(without_inputs(simulated), without_inputs(measured))
    assert compared.text.count("does not record digests of what it was made from") == 2
    assert len(compared.contents["notes"]) == 2


def committed_manifests() -> list[Path]:
    """Return those of the folders that have a name; the folder of a run of one's own is named by its time."""
    return sorted(path for path in RESULTS.rglob("manifest.json") if not path.parent.name[0].isdigit())


@pytest.mark.parametrize("manifest", committed_manifests(), ids=lambda path: str(path.parent.relative_to(RESULTS)))
def test_committed_results_name_no_folder_of_the_machine_that_made_them(manifest: Path) -> None:
    base_dir = json.loads(manifest.read_text()).get("base_dir")
    assert base_dir is None or not Path(base_dir).is_absolute()
