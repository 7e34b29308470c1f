"""The reference measurement: jobs leave records, finished ones are skipped, faults and limits end nothing but a job."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "bench"))

from gpu_parts import attention_table, jobs, profiles, targets, worker  # noqa: E402
from gpu_parts.jobs import Job, LeftOutError, Outcome, Setting  # noqa: E402
from gpu_parts.listing import PARTS, jobs_of  # noqa: E402

from kvsim.profile.profile import write_profile  # noqa: E402
from kvsim.profile.tables import CostTable  # noqa: E402
from kvsim.scenario.shapes import SHAPES  # noqa: E402
from tests.accesses import make_profile  # noqa: E402


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    made = Setting(
        device="cpu", out=tmp_path, is_small=True, model=None, attention_table=None, key="this code", command="python"
    )
    made.folder("jobs")
    return made


def job(name, run, limit_s=60.0):
    return Job(name=name, limit_s=limit_s, run=run)


def writes(name, text="found"):
    def run(setting):
        return Outcome(headline=text, files=[jobs.write_text(setting.folder("part") / f"{name}.txt", text)])

    return run


def fails(setting):
    raise ValueError("no such thing")


def lost(setting):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def leaves_out(setting):
    raise LeftOutError("no GPU here")


def states(setting, names):
    return [(found.state, found.error) for found in (jobs.read_record(setting.out, name) for name in names) if found]


def test_a_fault_is_recorded_and_the_other_jobs_go_on(setting):
    done = [job("part/a", writes("a")), job("part/b", fails), job("part/c", leaves_out), job("part/d", writes("d"))]
    assert worker.run_jobs(done, setting) == 0
    assert states(setting, [each.name for each in done]) == [
        ("done", ""),
        ("failed", "ValueError: no such thing"),
        ("left out", "no GPU here"),
        ("done", ""),
    ]


def test_a_lost_cuda_context_ends_the_process_and_leaves_the_rest_to_another(setting):
    assert worker.run_jobs([job("part/a", lost), job("part/b", writes("b"))], setting) == worker.BROKEN
    assert jobs.read_record(setting.out, "part/a").state == "failed"
    assert jobs.read_record(setting.out, "part/b") is None


def test_a_job_is_finished_while_its_files_and_what_it_depends_on_stay_as_they_were(setting):
    worker.run_jobs([job("part/a", writes("a")), job("part/b", fails)], setting)
    assert jobs.is_finished(setting.out, "part/a", "this code")
    assert not jobs.is_finished(setting.out, "part/a", "other code")
    assert jobs.is_finished(setting.out, "part/a", None)
    assert not jobs.is_finished(setting.out, "part/b", "this code")
    assert not jobs.is_finished(setting.out, "part/never", "this code")
    (setting.out / "part" / "a.txt").write_text("half")
    assert not jobs.is_finished(setting.out, "part/a", "this code")
    (setting.out / "part" / "a.txt").unlink()
    assert not jobs.is_finished(setting.out, "part/a", "this code")


SLOW = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text('part/slow'); time.sleep(60)"
DIES = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text('part/dies'); time.sleep(0.5); sys.exit(9)"


def watched(setting, code, name, *, limit_s=60.0, seconds=60.0):
    command = [sys.executable, "-c", code, str(worker.marker_of(setting.out))]
    given = [job(name, fails, limit_s=limit_s)]
    worker.watch(command, given, setting, deadline_s=time.monotonic() + seconds, say=lambda line: None)
    return jobs.read_record(setting.out, name)


def test_a_job_beyond_its_limit_is_ended_and_told(setting):
    found = watched(setting, SLOW, "part/slow", limit_s=0.5)
    assert (found.state, found.error) == ("failed", "stopped after its limit of 0 s")
    assert found.seconds < 30


def test_the_budget_of_the_whole_ends_a_job_too(setting):
    assert "budget" in watched(setting, SLOW, "part/slow", seconds=1.5).error


def test_a_process_that_dies_is_told_with_where_to_read_on(setting):
    found = watched(setting, DIES, "part/dies")
    assert found.state == "failed"
    assert "ended with 9" in found.error and "part.txt" in found.error


@pytest.mark.parametrize("is_small", [False, True])
def test_every_part_has_jobs_with_names_of_their_own_and_limits_that_fit_the_budget(is_small):
    listed = jobs_of(is_small=is_small)
    assert len({each.name for each in listed}) == len(listed)
    assert {each.part for each in listed} == {"machine", *PARTS}
    assert all(0 < each.limit_s <= 600 for each in listed)


def table_row(**changes):
    row = {
        "framework": "VLLM",
        "version": "0.24.0",
        "device": "NVIDIA H200",
        "op_name": "generation_attention",
        "kernel_source": "vllm_flash_attn_fa3",
        "batch_size": 2,
        "isl": 1,
        "num_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "beam_width": 1,
        "attn_dtype": "bfloat16",
        "kv_cache_dtype": "bfloat16",
        "step": 2047,
        "window_size": 0,
        "latency": 0.02,
    }
    return row | changes


def test_attention_is_compared_where_heads_dtype_window_and_range_are_the_same(setting, tmp_path):
    rows = [
        table_row(),
        table_row(kernel_source="vllm_flash_attn_fa4", latency=0.016),  # the faster kernel counts
        table_row(batch_size=1, step=1023, latency=0.01),
        table_row(num_heads=16),
        table_row(kv_cache_dtype="fp8"),
        table_row(window_size=1024),
        table_row(step=131071),  # beyond what was measured
    ]
    file = tmp_path / "generation_attention_perf.parquet"
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), file)
    own = make_profile()
    grid = {"amounts": (1000.0, 5000.0), "columns": (1.0, 4.0), "time_s": ((2e-5,) * 2, (4e-5,) * 2)}
    measured = CostTable(amount="tokens", columns_are="sequences", **grid)
    segment = own.segments["attention"].model_copy(update={"device": measured})
    shaped = own.model_copy(update={"shape": SHAPES["llama-3-8b"], "segments": own.segments | {"attention": segment}})
    found = attention_table.ratios(shaped, attention_table.read_table(file))
    assert [(row["batch"], row["context_tokens"]) for row in found] == [(1, 1024), (2, 2048)]
    assert found[0]["ratio"] == pytest.approx((2e-5 + 2e-5 * 24 / 4000) / 1e-5)
    assert found[1]["ratio"] == pytest.approx((2e-5 + 2e-5 * 3096 / 4000) / 1.6e-5)

    write_profile(shaped, profiles.shape_path(setting, "llama-3-8b"))
    told = Setting(**{name: getattr(setting, name) for name in setting.__slots__} | {"attention_table": file})
    outcome = attention_table.compare_attention(told)
    assert outcome.headline.startswith("2 points")
    assert len(outcome.files[0].read_text().splitlines()) == 3
    with pytest.raises(LeftOutError, match="attention-table"):
        attention_table.compare_attention(setting)


def timed(label, policy, k_pages, tpot_s, hit_frac=0.95, select_s=0.1):
    parts = {"attention": 1.0 - select_s, "select": select_s, "sync": 0.0, "choose": 0.0, "decide": 0.0, "submit": 0.0}
    return {"label": label, "policy": policy, "k_pages": k_pages, "tpot_s": tpot_s, "hit_frac": hit_frac} | {
        "parts_s": parts | {"speculate": 0.0}
    }


def test_targets_are_met_missed_by_how_much_or_do_not_count():
    rows = [
        timed("resident", "resident", 64, 0.010),
        timed("hf-offloaded", "offloaded_cache", None, 0.060),
        timed("attention a", "attention", 64, 0.011),
        timed("attention b", "attention", 64, 0.020, hit_frac=0.5, select_s=0.6),
        {"label": "stream", "left_out": "too small a budget"},
    ]
    found = targets.targets_of({"context_tokens": 32_768, "batch": 1, "rows": rows})
    assert [line["is_met"] for line in found] == [True, True, True, True, False, False]
    assert "1.10 times resident" in found[0]["told"]
    assert "where 90% are hits" in found[3]["told"]  # half are not: it does not count
    assert "off by 100%" in found[4]["told"]
    assert "3.0 times as fast" in found[5]["told"]
    near = targets.targets_of({"context_tokens": 8192, "batch": 1, "rows": rows})
    assert len(near) == 4  # the offloaded cache is the yardstick from 32k tokens on


def test_the_command_does_what_is_asked_and_only_once(tmp_path):
    command = [sys.executable, str(ROOT / "bench" / "gpu_reference.py"), "--device", "cpu", "--small"]
    command += ["--out", str(tmp_path), "--only", "engine/exact-fp32", "--model", str(tmp_path / "none")]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "met: " in first.stdout and "token-identical" in first.stdout
    found = json.loads((tmp_path / "engine" / "exactness-fp32.json").read_text())
    assert {"resident", "stream", "lru", "attention"} <= {row["policy"] for row in found["rows"]}
    assert json.loads((tmp_path / "manifest.json").read_text())["kernels"]
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert second.stdout.count("done before") == 2
    wrong = subprocess.run([*command, "--parts", "profile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "unknown part 'profile'" in wrong.stderr
