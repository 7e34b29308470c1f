"""The library: cheap to import, typed, and the same figures as the command line's, with objects where names were."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import kvsim
import kvsim.experiments.decode.simulate
from kvsim.cli import run_command
from kvsim.errors import KvsimError, PolicyError, ResultError, ScenarioError
from kvsim.experiments.plug_ins import policy_choices
from kvsim.experiments.registry import EXPERIMENTS, load_scenario
from kvsim.policies.evictors.lru import Lru
from kvsim.report.results import summary_json
from kvsim.scenario.shipped import find_scenario, shipped_scenarios

HEAVY = ("torch", "transformers", "pandas", "numba", "simpy", "numpy", "scipy", "pyarrow", "pydantic", "matplotlib")
SMALL = {"trace.num_steps": 6, "run.warmup_steps": 2, "budget.pages_per_layer": 30}


class Mine(Lru):
    """LRU by another name."""

    def __init__(self, setting: Any, *, unused: int = 0) -> None:
        super().__init__(setting)


class Template:
    """An instance that learns the sizes of its run by `prepare`."""

    def __init__(self) -> None:
        self.inner: Lru | None = None

    def prepare(self, setting: Any) -> None:
        assert self.inner is None, "every run has a copy of its own"
        self.inner = Lru(setting)

    def arrived(self, pages: Any) -> None:
        self.inner.arrived(pages)

    def touch(self, view: Any) -> None:
        self.inner.touch(view)

    def victims(self, *arguments: Any) -> Any:
        return self.inner.victims(*arguments)

    def left(self, pages: Any) -> None:
        self.inner.left(pages)


def test_importing_it_is_cheap_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import kvsim; took = time.perf_counter() - start\n"
        f"print(took, sorted(set({HEAVY!r}) & set(sys.modules)), kvsim.__version__, 'run' in dir(kvsim))"
    )
    printed = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)
    ]
    words = [one.stdout.split(maxsplit=1) for one in printed]
    assert {rest.strip() for _, rest in words} == {f"[] {kvsim.__version__} True"}
    assert min(float(took_s) for took_s, _ in words) < 0.05


def test_every_public_name_is_there_and_has_a_type() -> None:
    pytest.importorskip("torch")
    for name in kvsim.__all__:
        assert getattr(kvsim, name) is not None
    stub = ast.parse(Path(str(kvsim.__file__)).with_suffix(".pyi").read_text(encoding="utf-8"))
    typed = {
        alias.asname: (node.module, alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == {name: (place, name) for name, place in kvsim._PLACES.items()}
    with pytest.raises(AttributeError, match="has no attribute 'runn'"):
        kvsim.runn  # noqa: B018


def test_a_run_is_that_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = kvsim.run("smollm2_cpu", SMALL, policies=["resident", "lru"])
    typed = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    options = ["--set", "run.policies=resident,lru", "--json", "-o", str(tmp_path), "--no-figures"]
    assert run_command(["run", "smollm2_cpu", *typed, *options]) == 0
    printed = capsys.readouterr().out
    assert summary_json(result.summary) == printed
    (folder,) = (tmp_path / "smollm2_cpu").iterdir()
    theirs = kvsim.load_result(folder)
    pd.testing.assert_frame_equal(result.cells, theirs.cells)
    pd.testing.assert_frame_equal(result.steps, theirs.steps, check_dtype=False)
    assert {key: theirs.manifest[key] for key in ("resolved", "inputs", "scenario")} == {
        key: result.manifest[key] for key in ("resolved", "inputs", "scenario")
    }
    assert str(result) == str(theirs)
    assert result.verdict.splitlines()[0] in " ".join(str(result).split()) or result.verdict


def test_a_saved_result_is_the_same_again(tmp_path: Path) -> None:
    result = kvsim.run("smollm2_cpu", SMALL, policies=["resident", "lru"])
    folder = result.save(tmp_path, figures=True)
    assert folder.parent == tmp_path / "smollm2_cpu"
    assert {path.name for path in folder.glob("*.png")} == set(result.figures())
    pd.testing.assert_frame_equal(kvsim.load_result(folder).cells, result.cells)
    with pytest.raises(ResultError, match="no such result folder"):
        kvsim.load_result(tmp_path / "none")


def test_numpy_values_and_ranges_are_overrides_as_well() -> None:
    overrides = {
        **SMALL,
        "budget.pages_per_layer": np.array([20, 30]),
        "run.seed": np.int64(3),
        "run.batch": range(1, 2),
    }
    cells = kvsim.run("smollm2_cpu", overrides, policies=["lru"]).cells
    assert cells["budget.pages_per_layer"].tolist() == [20, 30]
    assert cells["run.batch"].tolist() == [1, 1]


def test_a_scenario_object_is_run_with_overrides(tmp_path: Path) -> None:
    scenario = kvsim.load_scenario("smollm2_cpu", SMALL)
    by_object = kvsim.run(scenario, {"run.policies": ["lru"]})
    by_name = kvsim.run("smollm2_cpu", SMALL, policies=["lru"])
    assert by_object.summary == by_name.summary
    assert by_object.manifest["base_dir"] is None


def counts(result: kvsim.Result) -> dict[str, list[int]]:
    names = ["hits", "misses", "digest"]
    return {policy: row for policy, *row in result.cells[["policy", *names]].itertuples(index=False)}


def share_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two processes share the cells of any run."""
    monkeypatch.setattr(kvsim.experiments.decode.simulate, "MIN_DECISIONS_FOR_PROCESSES", 0)
    monkeypatch.setattr(kvsim.experiments.decode.simulate.os, "cpu_count", lambda: 2)


POLICIES = [
    "kvsim.policies.evictors.lru:Lru",
    Mine,
    Template(),
    {"name": Template(), "label": "second template"},
    {"name": Mine, "arguments": {"unused": 3}, "label": "with an argument"},
]


def test_classes_and_instances_decide_as_the_class_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = kvsim.run("smollm2_cpu", SMALL, policies=POLICIES)
    found = counts(alone)
    assert list(found) == ["kvsim.policies.evictors.lru:Lru", "Mine", "Template", "second template", "with an argument"]
    assert len({tuple(row) for row in found.values()}) == 1 and found["Mine"][1] > 0
    share_among_processes(monkeypatch)
    assert counts(kvsim.run("smollm2_cpu", SMALL, policies=POLICIES)) == found


def test_a_class_that_no_import_finds_works_in_processes(tmp_path: Path) -> None:
    """As in a notebook: the class is in `__main__`, and a worker cannot import it."""
    script = tmp_path / "session.py"
    script.write_text(
        "import sys, kvsim, kvsim.experiments.decode.simulate as simulate\n"
        "from kvsim.policies.evictors.lru import Lru\n"
        "simulate.MIN_DECISIONS_FOR_PROCESSES = 0\n"
        "simulate.os.cpu_count = lambda: 2\n"
        f"small = {SMALL!r}\n"
        "exec('class Hidden(Lru):\\n    pass', globals())\n"
        "cells = kvsim.run('smollm2_cpu', small, policies=['lru', Hidden]).cells\n"
        "print(cells['misses'].tolist())\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    misses = json.loads(done.stdout)
    assert misses[0] == misses[1] > 0


def test_an_error_of_a_class_names_it_in_processes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Lru):
        def touch(self, view: Any) -> None:
            raise ZeroDivisionError("oh")

    share_among_processes(monkeypatch)
    with pytest.raises(PolicyError, match=r"Failing.*step 0, layer 0: touch raised ZeroDivisionError: oh"):
        kvsim.run("smollm2_cpu", SMALL, policies=["lru", Failing])


def test_parts_of_policies_may_be_classes() -> None:
    class Never:
        reads_speculation = False

        def __init__(self, setting: Any) -> None: ...
        def start(self, resident: Any) -> None: ...
        def opened(self, page: int) -> None: ...
        def left(self, victims: Any) -> None: ...
        def spared(self, view: Any) -> None: ...
        def wanted(self, view: Any) -> Any:
            return np.empty(0, dtype=np.int64)

    chosen = ["lru", {"name": "lru", "arguments": {"prefetch": Never}, "label": "never"}]
    found = counts(kvsim.run("smollm2_cpu", SMALL, policies=chosen))
    assert found["lru"] == found["never"]


class NoCopy(Template):
    """A template that ends the process where it is copied."""

    def __deepcopy__(self, memo: Any) -> None:
        raise SystemExit("not twice")


@pytest.mark.parametrize(
    ("policies", "problem"),
    [
        ("lru", "policies should be a list"),
        ({"name": "lru"}, "policies should be a list"),
        ([{"label": "x"}], r"a table needs a name, found \['label'\]"),
        ([None], "policies: each is a name, a class, an instance or a table of these, found None"),
        ([NoCopy()], r"policy '.*NoCopy': every run needs a copy of it, and it cannot be copied: not twice"),
        ([3], "policy 'builtins:int': not a policy class; it lacks attends"),
        (["lur"], "unknown policy 'lur'; did you mean 'lru'"),
        ([{"name": Mine, "arguments": {"unusde": 1}}], "unknown argument 'unusde'; did you mean 'unused'"),
    ],
)
def test_policies_that_are_none_are_refused(policies: Any, problem: str) -> None:
    with pytest.raises((ScenarioError, PolicyError), match=problem):
        kvsim.run("smollm2_cpu", SMALL, policies=policies)


def test_two_instances_of_a_class_have_names_of_their_own() -> None:
    choices, plug_ins = policy_choices([Template(), Template()])
    names = [choice["name"] for choice in choices]
    assert names[1] == f"{names[0]}#2" and list(plug_ins) == names


def test_policies_are_for_decode(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"unknown key 'run.policies'"):
        kvsim.run("kv_on_off", policies=["lru"])


@pytest.mark.parametrize("name", sorted({load_scenario(path).experiment for path in shipped_scenarios().values()}))
def test_every_experiment_gives_frames_text_and_html(name: str, tmp_path: Path) -> None:
    """Results that are committed or quickly made, of every experiment."""
    small: dict[str, tuple[str, dict[str, Any]]] = {
        "decode": ("smollm2_cpu", SMALL),
        "prefix-blocks": ("prefix_blocks", {"cache.budget_frac": 0.1, "cache.policy": ["lru", "fifo"]}),
        "kv-on-off": ("kv_on_off", {"run.new_tokens": 4, "run.batch": 1}),
        "prompt-cache": ("prompt_cache", {"cache.tier": ["device"]}),
        "prompt-modules": ("prompt_modules", {"cache.policy": "lru"}),
        "embedding-rows": ("embedding_cache", {"run.mode": ["cold"], "run.requests": 8}),
        "serving": ("serving", {"arrivals.rate_hz": 0.2, "trace.num_requests": 40}),
    }
    assert set(small) == set(EXPERIMENTS)
    scenario, overrides = small[name]
    result = kvsim.run(scenario, overrides)
    assert result.experiment == name
    cells, steps = result.cells, result.steps
    assert len(cells) == len(result.summary["cells"]) > 0
    assert sorted(set(steps["cell"])) == list(range(len(cells)))
    varied = [key for key in result.summary["swept"] if key in cells]
    assert set(cells.columns) == {key for cell in result.summary["cells"] for key in cell}
    assert set(varied) <= set(cells.columns[: len(varied) + 1])
    assert str(result).strip() and result.verdict
    assert "<table" in result._repr_html_() and repr(result)[1:10] == "simulated"
    again = kvsim.load_result(result.save(tmp_path))
    pd.testing.assert_frame_equal(again.steps, steps, check_dtype=False)
    assert str(again) == str(result)


def test_two_results_are_compared_by_folder_or_object() -> None:
    results = Path(__file__).parents[1] / "results" / "crosscheck_cpu"
    by_folder = kvsim.compare(results / "simulated", str(results / "measured"))
    by_object = kvsim.compare(kvsim.load_result(results / "simulated"), kvsim.load_result(results / "measured"))
    assert by_folder.figures == by_object.figures and by_folder.figures["counts_equal"] is True
    assert len(by_folder.cells) == 36 and str(by_folder) == str(by_object)
    assert repr(by_folder) == "<comparison of 36 cells>" and "<pre>" in by_folder._repr_html_()
    with pytest.raises(ResultError, match="the second result was simulated"):
        kvsim.compare(results / "simulated", results / "simulated")


def test_errors_have_a_line_each() -> None:
    with pytest.raises(KvsimError) as caught:
        kvsim.run("smollm2_cpu", {"budget.page_per_layer": 3, "run.seed": -1})
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{find_scenario('smollm2_cpu')} with overrides: unknown key 'budget.page_per_layer'")


@pytest.mark.parametrize("overrides", [["run.seed=1"], "run.seed=1", {3: 1}])
def test_overrides_that_are_none_are_a_line(overrides: Any) -> None:
    for read in (kvsim.run, kvsim.load_scenario):
        with pytest.raises(ScenarioError, match=r"\Aoverrides should be values by dotted field, as in .*, found .*\Z"):
            read("smollm2_cpu", overrides)


def test_a_bare_array_is_no_trace() -> None:
    with pytest.raises(ScenarioError, match=r"\Atrace should be a Trace, .* found a ndarray\Z"):
        kvsim.run("smollm2_cpu", trace=np.zeros((3, 3, 3)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"context_tokens": "32k"}, "context_tokens should be a whole number, found '32k'"),
        ({"context_tokens": 32_768.5}, "context_tokens should be a whole number, found 32768.5"),
        ({"batch": True}, "batch should be a whole number, found True"),
        ({"tpot_s": float("nan")}, "tpot_s should be a finite number, found nan"),
        ({"tpot_s": "50ms"}, "tpot_s should be a finite number, found '50ms'"),
        ({"recall_frac": "high"}, "recall_frac should be a finite number, found 'high'"),
        ({"host_memory_bytes": "64 GiB"}, "host_memory_bytes should be a whole number, found '64 GiB'"),
        ({"weights": 4}, "weights should be text, found 4"),
        ({"model": None}, "model should be text, found None"),
    ],
)
def test_a_plan_of_the_wrong_kinds_is_a_line(wrong: dict[str, Any], problem: str) -> None:
    asked = {"model": "qwen3-8b", "gpu": "rtx-4090", "context_tokens": 1024, **wrong}
    with pytest.raises(ScenarioError, match=rf"\A{problem}\Z"):
        kvsim.plan(**asked)


@pytest.mark.parametrize(("policy", "capacity"), [(3, 1), ("lru", 1.5)])
def test_a_cache_of_the_wrong_kinds_is_a_line(policy: Any, capacity: Any) -> None:
    with pytest.raises(ScenarioError, match="a cache needs a policy's name and a whole number of keys, found"):
        kvsim.Cache(policy, capacity)
