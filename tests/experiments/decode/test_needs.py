"""Scenarios that no machine can run are refused before anything is made, with what they would take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvsim.cli import run_command
from kvsim.experiments.decode import needs

SMALL = {
    "long_context": ["sweep={}", "trace.num_steps=12"],
    "smollm2_cpu": ["budget.context_frac=0.3", "trace.num_steps=12"],
}
POLICIES = 'run.policies=["lru", "attention"]'
SHAPE = (
    "model.shape={num_layers=1000000000, hidden_size=64, num_heads=4, num_kv_heads=2, head_dim=16, "
    'intermediate_size=128, vocab_size=256, tied_embeddings=true, dtype="bf16"}'
)

LARGE = ("1000000000", "1000000000000", "1000000000000000000")


def line_of(capsys: pytest.CaptureFixture[str], tmp_path: Path, scenario: str, *changes: str) -> str:
    """Run a scenario that must be refused, and return the first line."""
    words = [word for change in (*SMALL[scenario], POLICIES, *changes) for word in ("--set", change)]
    assert run_command(["run", scenario, *words, "--no-figures", "-o", str(tmp_path)]) == 2
    return capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize("value", LARGE)
@pytest.mark.parametrize("field", ["trace.extrapolate.context_tokens", "run.batch", "trace.num_steps"])
def test_more_than_memory_or_a_day_holds_is_refused_with_the_figure(capsys, tmp_path, field, value):
    line = line_of(capsys, tmp_path, "long_context", f"{field}={value}")
    assert " of memory and " in line
    assert " hours to simulate; this machine has " in line


def test_a_thousand_million_layers_are_refused_with_the_figure(capsys, tmp_path):
    line = line_of(capsys, tmp_path, "long_context", SHAPE, "profile.allow_other_shape=true")
    assert "sequences of 1,000,000,000 layers of 513 pages) for 12 steps would take about " in line


def test_a_thousand_million_repetitions_are_refused(capsys, tmp_path):
    assert " for 12,000,000,000 steps " in line_of(capsys, tmp_path, "smollm2_cpu", "run.repetitions=1000000000")


@pytest.mark.parametrize("value", LARGE)
@pytest.mark.parametrize(
    "field",
    ["prefetch.quota_pages", "prefetch.chunk_pages", "prefetch.window_transfers", "selector.k_pages", "run.seed"],
)
def test_numbers_that_bound_nothing_run_as_smaller_ones_do(capsys, tmp_path, field, value):
    """A quota beyond all pages is no quota; it takes no memory either."""
    words = [word for change in (*SMALL["smollm2_cpu"], POLICIES, f"{field}={value}") for word in ("--set", change)]
    assert run_command(["run", "smollm2_cpu", *words, "--no-figures", "--json", "-o", str(tmp_path)]) == 0
    capsys.readouterr()


def test_a_cell_of_the_memory_of_this_machine_is_at_the_limit(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(needs, "physical_memory_bytes", lambda: 3870 * needs.PAGE_ID_BYTES - 1)
    line = line_of(capsys, tmp_path, "smollm2_cpu", "prefetch.quota_pages=0")
    assert "3,870 pages (1 sequences of 30 layers of 129 pages)" in line


@pytest.mark.parametrize(
    "change",
    [
        "measure.prompt_tokens=1000000000",
        "run.batch=1000000",
        "measure.num_steps=1000000000",
        "measure.repeats=1000000000",
    ],
)
@pytest.mark.parametrize("command", [["measure"], ["measure", "--max-context"]])
def test_what_cannot_be_measured_is_refused_before_the_model_loads(capsys, tmp_path, monkeypatch, command, change):
    pytest.importorskip("torch")
    monkeypatch.setattr("kvsim.engine.model.loading.load_model", None)
    assert run_command([*command, "crosscheck_quick", "--set", change, "-o", str(tmp_path)]) == 2
    assert " hours to measure; this machine has " in capsys.readouterr().err.splitlines()[0]


def test_a_sweep_refuses_the_cells_that_cannot_be_run_and_runs_the_others(capsys, tmp_path):
    words = ["--set", "run.batch=[1, 1000000]", "--set", "trace.num_steps=12", "--set", "run.policies=lru"]
    words += ["--set", "budget.context_frac=0.3", "--workers", "1", "--no-figures", "-o", str(tmp_path)]
    assert run_command(["sweep", "smollm2_cpu", *words]) == 2
    printed = capsys.readouterr().out
    assert "1 cells simulated" in printed or "2 cells simulated" in printed
    assert "1,000,000 sequences of 30 layers" in printed


MEASURED = """
import sys
from pathlib import Path
from kvsim.cli import run_command
words = [word for change in sys.argv[1:] for word in ("--set", change)]
assert run_command(["run", "long_context", *words, "--no-figures", "--json", "-o", "out"]) == 0
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(status["VmHWM"].split()[0], file=sys.stderr)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of a process's memory")
def test_memory_is_what_was_worked_out(tmp_path):
    """The difference of two sizes, so that Python and its libraries do not count; the first run compiles kernels."""
    used_bytes = []
    for context in (65_536, 65_536, 524_288):
        changes = ["sweep={}", "trace.num_steps=9", "page_tokens=32", "run.policies=lru"]
        changes += ["budget.context_frac=0.3", f"trace.extrapolate.context_tokens={context}"]
        command = [sys.executable, "-c", MEASURED, *changes]
        environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[3])}
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
        used_bytes.append(int(done.stderr.splitlines()[-1]) * 1024)
    num_ids = 32 * (524_288 - 65_536) // 32
    assert needs.PAGE_ID_BYTES / 4 < (used_bytes[2] - used_bytes[1]) / num_ids < needs.PAGE_ID_BYTES


@pytest.mark.parametrize(
    ("scenario", "field"), [("kv_on_off", "run.new_tokens"), ("prompt_modules", "stream.num_requests")]
)
def test_counts_of_what_is_simulated_one_by_one_are_bounded(capsys, tmp_path, scenario, field):
    assert run_command(["run", scenario, "--set", f"{field}=1000000000", "-o", str(tmp_path)]) == 2
    assert f"{field}: should be less than or equal to" in capsys.readouterr().err.replace(
        "at most", "less than or equal to"
    )
