"""`kvsim policy`: what it lists, how it fails a plug-in, what it times; and docs/policies.md, run as it stands."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from kvsim.cli import run_command
from kvsim.errors import CalibrationError
from kvsim.policies import ADMISSIONS, POLICIES, PREFETCHERS
from kvsim.policies.testing.timing import PAGES_SELECTED, time_decisions
from kvsim.profile.profile import load_profile, write_profile
from kvsim.report.results import load_result
from tests.accesses import make_profile

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of the plug-in in docs/policies.md, written to a file of its own."""
    (code,) = re.findall(r"```python\n(.*?)```", DOC, flags=re.DOTALL)
    assert code.count("\n") < 30
    (tmp_path / "template_policy.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "template_policy", raising=False)
    monkeypatch.chdir(tmp_path)
    return "template_policy:LeastScored"


def test_the_list_names_every_part_with_kind_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["policy", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [*POLICIES, *PREFETCHERS, *ADMISSIONS]
    assert all(row["kind"] and row["source"] for row in rows)
    assert {row["name"] for row in rows if row["is_oracle"]} == {"belady", "oracle-prefetch"}
    by_name = {row["name"]: row for row in rows if row["kind"] in ("eviction", "admission")}
    assert by_name["s3-fifo"]["arguments"] == {"small_frac": 0.1}
    assert by_name["lru"]["compiled"]
    assert run_command(["policy", "list"]) == 0
    assert "Megiddo and Modha" in capsys.readouterr().out


def test_docs_name_every_part() -> None:
    for name in (*POLICIES, *PREFETCHERS, *ADMISSIONS):
        assert f"| `{name}` |" in DOC


def test_the_template_of_the_docs_passes_its_tests_and_runs(template: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["policy", "test", template, "--set", "keep_frac=0.8"]) == 0
    assert "FAILED" not in capsys.readouterr().out
    policies = f'run.policies=["lru", "{template}"]'
    options = ["--set", policies, "--set", "trace.num_steps=12", "--set", "run.warmup_steps=2", "--no-figures"]
    options += ["--set", "budget.pages_per_layer=32"]
    assert run_command(["run", "smollm2_cpu", *options, "--output", "out"]) == 0
    shown = capsys.readouterr().out
    assert f"no cost of decisions of `{template}`: taken as that of `attention`" in shown
    (folder,) = [path.parent for path in Path("out").rglob("summary.json")]
    cells = load_result(folder).summary["cells"]
    assert [cell["policy"] for cell in cells] == ["lru", template]


def test_a_plug_in_that_breaks_a_rule_is_told_in_a_line_each_and_exit_code_2(
    template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty = (tmp_path / "template_policy.py").read_text().replace("view.evictable if", "view.resident if")
    (tmp_path / "template_policy.py").write_text(faulty)
    assert run_command(["policy", "test", template]) == 2
    told = capsys.readouterr()
    assert "FAILED  runs in a pool that all layers share" in told.out
    assert all(line.startswith(f"policy {template}: ") for line in told.err.splitlines())
    assert "may not leave" in told.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["policy", "test", "lrru"], "did you mean 'lru'"),
        (["policy", "test", "lru", "--set", "prefetch"], "write KEY=VALUE, as in --set prefetch=previous-step"),
        (["policy", "test", "lru", "--set", "prefetch=none", "--set", "speed=3"], "unknown argument 'speed'"),
        (["policy", "time", "resident"], "costs nothing"),
        (["policy", "time", "lru", "--profile", "cpu-smollm2-135m"], "go together"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(arguments) == 2
    assert told in capsys.readouterr().err


def test_time_adds_the_cost_of_a_composition_to_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = make_profile()
    write_profile(known, tmp_path / "known.toml")
    options = ["--quick", "--set", "prefetch=previous-step", "--json"]
    files = ["--profile", str(tmp_path / "known.toml"), "-o", str(tmp_path / "new.toml")]
    assert run_command(["policy", "time", "fifo", *options, *files]) == 0
    said = json.loads(capsys.readouterr().out)
    new = load_profile(tmp_path / "new.toml")
    assert said["name"] == "fifo+previous-step"
    assert set(new.policies) == {*known.policies, "fifo+previous-step"}
    table = new.policies["fifo+previous-step"]
    assert table.amounts == tuple(map(float, PAGES_SELECTED[:2]))
    assert table.source.startswith("kvsim policy time fifo")
    assert new.decide_s("fifo+previous-step", 6, 720) == table.time_s[0][0] > 0


def test_slower_decisions_are_timed_as_slower(template: str, tmp_path: Path) -> None:
    del template
    slow = (
        (tmp_path / "template_policy.py")
        .read_text()
        .replace(
            "    def touch(self, view):",
            "    def touch(self, view):\n        sum(range(60_000))\n    def touched(self, view):",
        )
    )
    (tmp_path / "slow_policy.py").write_text(slow)
    (_, fast), (_, slower) = (time_decisions(name, {}, quick=True) for name in ("lru", "slow_policy:LeastScored"))
    assert slower.num_samples == fast.num_samples > 0
    assert (np.array(slower.time_s) > 3 * np.array(fast.time_s)).all()
    assert np.isfinite(np.array(slower.time_s)).all()


def test_a_policy_that_is_never_asked_is_not_timed() -> None:
    with pytest.raises(CalibrationError, match="never asked"):
        time_decisions("resident", {})
