"""The shipped prefetching experiment, whole: measured on a tiny model, then told in tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from paging_tables import main

from kvsim.cli import run_command
from kvsim.engine.model.loading import read_shape
from kvsim.profile.profile import write_profile
from kvsim.scenario.shapes import SHAPES, ModelShape
from tests.accesses import make_profile

BUDGET_5 = {"budget.pages_per_layer": 5}


def write_profile_of(shape: ModelShape, path: Path) -> None:
    profile = make_profile(bandwidth_bytes_per_s=2e9)
    link = profile.link.model_copy(update={"stated_bandwidth_bytes_per_s": 5e8, "emulated": True})
    machine = profile.machine.model_copy(update={"num_threads": 1})
    write_profile(profile.model_copy(update={"shape": shape, "link": link, "machine": machine}), path)


def test_the_shipped_experiment_runs_on_a_tiny_model_from_measurement_to_tables(
    tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shape = read_shape(tiny_model_path, "fp32")
    write_profile_of(shape, tmp_path / "p.toml")
    letters = np.random.default_rng(0).choice(list("etaoin shrdlu"), size=400)
    (tmp_path / "text.txt").write_text("".join(letters))
    sizes = ", ".join(
        f"{name} = {json.dumps(value)}" for name, value in shape.model_dump(mode="json", exclude_none=True).items()
    )
    changes = {
        "model.path": json.dumps(str(tiny_model_path)),
        "model.shape": f"{{{sizes}}}",
        "profile.path": '"p.toml"',
        "page_tokens": "16",
        "measure.text": '"text.txt"',
        "sweep.measure.prompt_tokens": "[40, 150]",
        "measure.num_steps": "12",
        "measure.repeats": "2",
        "exclude": '[{"budget.pages_per_layer" = [8], "selector.name" = ["top-k"]}]',
        "budget.pages_per_layer": "[5, 8]",
    }
    options = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    assert run_command(["measure", "kv_prefetch", *options, "-o", "out"]) == 0
    capsys.readouterr()
    folder = next((tmp_path / "out" / "kv_prefetch").iterdir())

    assert main([str(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((folder / "experiment_summary.json").read_text())
    assert printed["experiment_summary"]["measured"]
    assert printed["experiment_summary"]["total_experiments"] == 2 * 3 * 3
    assert printed["experiment_summary"]["new_tokens"] == 8
    top_k = next(part for part in printed["settings"] if part["setting"]["selector.name"] == "top-k")
    assert top_k["mode_summaries"]["baseline"]["attention_recall"] < 1
    full = next(part for part in printed["settings"] if part["setting"] == {"selector.name": "full"} | BUDGET_5)
    assert full["by_context_tokens"]["40"]["mode_summaries"]["reactive"]["average_cache_hit_rate"] == 1
    assert full["by_context_tokens"]["150"]["mode_summaries"]["reactive"]["average_cache_hit_rate"] < 1

    assert main([str(folder), "-o", "elsewhere"]) == 0
    assert "selector full, 5 pages per layer: 40, 150 tokens" in capsys.readouterr().out
    assert {path.name for path in Path("elsewhere").iterdir()} == {"experiment_summary.json", "kv_cache_comparison.png"}


def test_unmeasured_it_selects_by_what_the_capture_has_and_is_no_experiment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_profile_of(SHAPES["smollm2-135m"], tmp_path / "p.toml")
    options = [part for change in ('profile.path="p.toml"', "trace.num_steps=6") for part in ("--set", change)]
    assert run_command(["run", "kv_prefetch", *options, "--no-figures", "--json", "-o", "out"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert len(cells) == 21
    assert {cell["selector"] for cell in cells} == {"full", "top-k by mass"}

    folder = next((tmp_path / "out" / "kv_prefetch").iterdir())
    assert main([str(folder)]) == 2
    assert "one trace was replayed for every context" in capsys.readouterr().err
