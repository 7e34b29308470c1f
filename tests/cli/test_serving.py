"""``kvsim serving`` as it is typed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from kvsim.cli import run_command
from kvsim.experiments.serving.schedules.workload import read_workload
from tests.cli.typed import refusal

RECORDED = Path(__file__).parents[1] / "experiments" / "serving" / "schedules" / "vllm-0.32.0" / "edges.json.gz"


def test_a_recorded_schedule_is_made_again_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "again.json.gz"
    assert run_command(["serving", "schedule", str(RECORDED), "-o", str(output), "--compare"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{output}: 23 requests, 243 steps, 2,245 tokens, 1,344 hit tokens")
    assert second == f"equal to {RECORDED} in all steps"
    assert len(read_workload(output).steps or ()) == 243


def test_another_scheduler_makes_another_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-o", str(tmp_path / "static.json"), "--scheduler", "static", "--compare"]
    assert run_command(["serving", "schedule", str(RECORDED), *arguments]) == 1
    assert "step 0: admitted: recorded" in capsys.readouterr().out


def bare_workload(path: Path) -> Path:
    recorded = json.loads(gzip.decompress(RECORDED.read_bytes()))
    path.write_text(json.dumps({name: recorded[name] for name in ("engine", "requests")}))
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.json", "-o", "out.json"], "none.json: cannot be read"),
        (["bare.json", "-o", "out.json", "--compare"], "no steps to compare with"),
        (["bare.json", "-o", "bare.json/out.json"], "bare.json/out.json: cannot be written"),
        (["bare.json", "-o", "out.json", "--scheduler", "vlm"], "did you mean 'vllm'"),
        (["bare.json"], "Missing option"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    bare_workload(tmp_path / "bare.json")
    assert message in refusal(capsys, "serving", "schedule", *arguments)


def test_a_workload_without_outputs_is_scheduled_too(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    assert run_command(["serving", "schedule", str(bare_workload(tmp_path / "bare.json")), "-o", str(output)]) == 0
    assert len(read_workload(output).steps or ()) == 243


BACKWARD = (
    '{"timestamp": 9, "input_length": 4, "output_length": 1, "hash_ids": []}\n'
    '{"timestamp": 2, "input_length": 4, "output_length": 1, "hash_ids": []}\n'
)
TRACE = ["--set", "trace.path=t.jsonl", "--set", "trace.sessions=none", "--set", "trace.shuffle=false"]
BY_TRACE = ["--set", 'arrivals={process = "trace"}', "--set", "sweep={}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "serving", "--set", "engine.num_gpu_blocks_override=20"], "max_model_len = 16384 needs 1025"),
        (["check", "serving", "--set", "trace.drop_longer=false"], "set trace.drop_longer = true"),
        (["check", "serving", *TRACE, *BY_TRACE], "before the request above it"),
        (["run", "serving", "--set", "arrivals.rate_hz=0"], "arrivals.rate_hz"),
        (["serving", "capacity", "serving", "--set", "arrivals.rate_hz=0"], "arrivals.rate_hz"),
        (["serving", "capacity", "kv_on_off"], "is for scenarios of kind 'serving', found 'kv-on-off'"),
        (["run", "serving_tiers", "--set", "tiers.host_memory=1 MB"], "does not hold one chunk of 1 blocks (2 MiB)"),
        (["measure", "serving_vllm_cpu", "--set", "model.path=m"], "run `make vllm` in kvsim's sources"),
        (["crosscheck", "serving_vllm_cpu", "--set", "model.path=m"], "run `make vllm` in kvsim's sources"),
        (["calibrate", "--engine", "vllm", "--model", "m", "-o", "p.toml"], "run `make vllm` in kvsim's sources"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_what_cannot_be_served_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KVSIM_VLLM", "/no/such/python")
    if arguments[0] in ("measure", "crosscheck", "calibrate"):
        pytest.importorskip("torch")
    (tmp_path / "t.jsonl").write_text(BACKWARD)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    assert run_command(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
