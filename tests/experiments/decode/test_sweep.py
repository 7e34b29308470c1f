"""Sweeps: equal to runs to the last digit, and no finished cell is lost to a kill, a full disk or a failing cell."""

from __future__ import annotations

import errno
import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kvsim.experiments.decode.sweep.sweep as sweep_module
from kvsim.errors import KvsimError, ResultError
from kvsim.experiments.decode.cells import Cell
from kvsim.experiments.decode.simulate import build_cells, simulate
from kvsim.experiments.decode.sources import Sources
from kvsim.experiments.decode.sweep.keys import cell_keys
from kvsim.experiments.decode.sweep.pieces import pieces_of
from kvsim.experiments.decode.sweep.sweep import Sweep, sweep
from kvsim.experiments.types import Job
from kvsim.report.results import load_result, summary_json, write_result
from kvsim.scenario.decode import Scenario, load_scenario
from kvsim.scenario.shipped import find_profile, find_scenario

PATH = find_scenario("smollm2_cpu")
SMALL = ("trace.num_steps=6", "run.warmup_steps=2", "budget.context_frac=[0.2, 0.5]")
TOO_SMALL = ("trace.num_steps=6", "run.warmup_steps=2", "budget.context_frac=[0.01, 0.5]")

FAILING_POLICY = """
from kvsim.policies.evictors.lru import Lru

class Failing(Lru):
    def __init__(self, setting):
        raise RuntimeError("no such luck")
"""


def scenario(*overrides: str) -> Scenario:
    return load_scenario(PATH, overrides)


def swept(folder: Path, *overrides: str, **options: Any) -> Sweep:
    return sweep(scenario(*overrides), folder, Job(base_dir=PATH.parent), **{"num_workers": 1} | options)


def cells_of(scenario: Scenario) -> list[Cell]:
    built = build_cells(scenario, Job(base_dir=PATH.parent), Sources(PATH.parent))
    return [cell for cell in built if isinstance(cell, Cell)]


def text_of(found: Sweep) -> str:
    return summary_json(found.result.summary)


def run_of(*overrides: str) -> str:
    return summary_json(simulate(scenario(*overrides), Job(base_dir=PATH.parent)).summary)


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "smollm2_cpu" / "cells").glob("*.json"))


@pytest.mark.parametrize(
    "overrides",
    [
        SMALL,
        (*SMALL[:2], "page_tokens=[32, 64]", "budget.context_frac=0.5", "run.seed=[1, 2]"),
        (*SMALL[:2], "prefetch.window_transfers=[1, 4]", "prefetch.quota_pages=[1, 8]", "run.policies=attention"),
        (*SMALL[:2], "run.batch=[1, 2]", "run.policies=lru", "profile.device_memory=['300 MiB', '1 GiB']"),
        (*SMALL[:2], 'run.policies=["resident", {name = "attention", arguments = {decay_frac = [0.5, 0.9]}}]'),
    ],
    ids=["budgets", "page sizes and seeds", "prefetching", "batches and memory", "arguments"],
)
def test_a_sweep_equals_a_run_to_the_last_digit(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    assert text_of(swept(tmp_path, *overrides)) == run_of(*overrides)


def test_generated_contexts_are_swept_as_they_are_run(tmp_path: Path) -> None:
    path = find_scenario("long_context")
    overrides = ["trace.num_steps=6", "run.warmup_steps=2", "run.policies=lru", "budget.context_frac=[0.25, 0.5]"]
    long = load_scenario(path, [*overrides, "trace.extrapolate.context_tokens=[4096, 8192]"])
    found = sweep(long, tmp_path, Job(base_dir=path.parent), num_workers=2)
    assert text_of(found) == summary_json(simulate(long, Job(base_dir=path.parent)).summary)


def test_processes_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    assert text_of(swept(tmp_path / "a", *SMALL, num_workers=2)) == text_of(swept(tmp_path / "b", *SMALL))


def test_finished_cells_are_found_again_and_only_others_simulated(tmp_path: Path) -> None:
    first = swept(tmp_path, *SMALL)
    assert (first.num_reused, first.num_simulated) == (0, 8)
    again = swept(tmp_path, *SMALL)
    assert (again.num_reused, again.num_simulated) == (8, 0)
    assert text_of(again) == text_of(first)
    wider = swept(tmp_path, *SMALL[:2], "budget.context_frac=[0.2, 0.3, 0.5]")
    assert (wider.num_reused, wider.num_simulated) == (8, 4)
    assert swept(tmp_path, *SMALL, fresh=True).num_simulated == 8


def test_a_torn_cell_is_simulated_again(tmp_path: Path) -> None:
    first = swept(tmp_path, *SMALL)
    victim = kept(tmp_path)[3]
    victim.write_bytes(victim.read_bytes()[:-20])
    again = swept(tmp_path, *SMALL)
    assert again.num_simulated == 1
    assert text_of(again) == text_of(first)


def test_a_changed_profile_makes_its_cells_anew(tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    shutil.copy(find_profile("cpu-smollm2-135m"), profile)
    overrides = (*SMALL, f'profile.path="{profile}"')
    first = swept(tmp_path, *overrides)
    assert swept(tmp_path, *overrides).num_simulated == 0
    text = profile.read_text(encoding="utf-8")
    profile.write_text(text.replace("sync_s = ", "sync_s = 1", 1), encoding="utf-8")
    assert profile.read_text(encoding="utf-8") != text
    assert swept(tmp_path, *overrides).num_simulated == first.num_simulated


def test_the_code_of_somebodys_policy_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "my_sweep_policy.py"
    module.write_text("from kvsim.policies.evictors.lru import Lru\nclass Mine(Lru): ...\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    cells = cells_of(scenario(*SMALL, "run.policies=my_sweep_policy:Mine"))
    before = cell_keys(cells, PATH.parent)
    assert len(set(before)) == len(cells)
    module.write_text("from kvsim.policies.evictors.lru import Lru\nclass Mine(Lru): pass\n", encoding="utf-8")
    assert not set(before) & set(cell_keys(cells, PATH.parent))


def test_what_somebodys_policy_imports_from_its_folder_is_part_of_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_sweep_helper.py").write_text("WHO = 0\n", encoding="utf-8")
    source = "import my_sweep_helper\nfrom kvsim.policies.evictors.lru import Lru\nclass Mine(Lru): ...\n"
    (tmp_path / "my_importing_policy.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    options = (*SMALL, "run.policies=my_importing_policy:Mine")
    first = swept(tmp_path, *options)
    assert swept(tmp_path, *options).num_simulated == 0
    (tmp_path / "my_sweep_helper.py").write_text("WHO = 1\n", encoding="utf-8")
    assert swept(tmp_path, *options).num_simulated == first.num_simulated == 2


def test_a_cell_whose_trace_is_too_short_does_not_end_the_others(tmp_path: Path) -> None:
    found = swept(tmp_path, "trace.num_steps=[6, 1000]", *SMALL[1:2], "run.policies=lru", "budget.context_frac=0.5")
    assert [(cell.number, cell.error) for cell in found.failed] == [
        (1, "smollm2_cpu: trace.num_steps is 1000, the trace smollm2-docs has 128")
    ]
    assert len(found.result.summary["cells"]) == 1


def test_an_unknown_policy_ends_a_sweep_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(KvsimError, match="unknown policy 'lur'; did you mean 'lru'"):
        swept(tmp_path, *SMALL, "run.policies=lru,lur")
    assert not kept(tmp_path)


def test_a_cell_below_its_minimum_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    found = swept(tmp_path, *TOO_SMALL)
    assert [cell.policy for cell in found.failed] == ["stream", "lru", "attention"]
    assert all("below the minimum" in cell.error for cell in found.failed)
    assert len(found.result.summary["cells"]) == 5
    assert [cell["cell"] for cell in found.result.summary["failed"]] == [1, 2, 3]
    good = {(cell["policy"], cell["budget.context_frac"]): cell["digest"] for cell in found.result.summary["cells"]}
    alone = json.loads(run_of(*TOO_SMALL[:2], "budget.context_frac=[0.5]"))
    assert {policy: good[policy, 0.5] for policy, share in good if share == 0.5} == {
        cell["policy"]: cell["digest"] for cell in alone["cells"]
    }


def test_a_policy_that_breaks_leaves_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_failing_policy.py").write_text(FAILING_POLICY, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = swept(tmp_path, *SMALL, 'run.policies=["lru", "my_failing_policy:Failing"]')
    assert {cell.error for cell in found.failed} == {
        "policy 'my_failing_policy:Failing': __init__ raised RuntimeError: no such luck (my_failing_policy.py, line 6)"
    }
    assert "my_failing_policy.py" in str(found.failed[0].traceback)
    assert found.num_simulated == 4
    assert swept(tmp_path, *SMALL, 'run.policies=["lru", "my_failing_policy:Failing"]').num_simulated == 2


def test_a_sweep_of_nothing_but_failures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KvsimError, match=r"all 1 cells failed:\n.*below the minimum"):
        swept(tmp_path, *TOO_SMALL[:2], "budget.context_frac=[0.01]", "run.policies=lru")


def test_a_full_disk_keeps_what_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.write_text
    written: list[Path] = []

    def until_full(path: Path, *arguments: Any, **options: Any) -> int:
        if path.name.endswith(".partial"):
            if len(written) == 3:
                real(path, "{")
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(path)
        return real(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", until_full)
        with pytest.raises(ResultError, match="cannot keep a cell: No space left on device"):
            swept(tmp_path, *SMALL)
    assert len(kept(tmp_path)) == 3
    assert not list((tmp_path / "smollm2_cpu" / "cells").glob(".*"))
    again = swept(tmp_path, *SMALL)
    assert (again.num_reused, again.num_simulated) == (3, 5)
    assert text_of(again) == run_of(*SMALL)


def test_a_killed_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    options = ["trace.num_steps=30", "budget.context_frac=[0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]"]
    arguments = [part for option in options for part in ("--set", option)]
    command = [sys.executable, "-m", "kvsim", "sweep", "smollm2_cpu", "-o", str(tmp_path), "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--no-figures", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline_s = time.monotonic() + 120
    while len(kept(tmp_path)) < 3:
        assert process.poll() is None and time.monotonic() < deadline_s, "ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    num_kept = len(kept(tmp_path))
    again = swept(tmp_path, *options)
    assert 3 <= num_kept <= again.num_reused < 28
    assert again.num_reused + again.num_simulated == 28
    assert text_of(again) == run_of(*options)


def test_pieces_hold_every_cell_once_and_neighbours_read_the_same() -> None:
    grid = scenario(*SMALL[:2], "page_tokens=[32, 64]", "run.batch=[1, 2]", "budget.context_frac=[0.3, 0.4, 0.5]")
    cells = cells_of(grid)
    sources = Sources(PATH.parent)
    keyed = [(str(number), cell) for number, cell in enumerate(cells)]
    pieces = pieces_of(keyed, sources, 2, sweep="x", folder=Path())
    runs = [run for piece in pieces for run in piece.runs]
    assert sorted(int(key) for run in runs for key, _ in run) == list(range(len(cells)))
    assert len(runs) == 4 * (3 * 3 + 1), "three policies with a budget, and one that ignores it"
    reads = [sources.reads(run[0][1], 0) for run in runs]
    changes = sum(left != right for left, right in itertools.pairwise(reads))
    assert changes == len(set(reads)) - 1


def test_a_result_without_rows_is_written_and_read_back(tmp_path: Path) -> None:
    found = swept(tmp_path, *SMALL)
    loaded = load_result(write_result(found.result, tmp_path))
    assert loaded.rows == {}
    assert summary_json(loaded.summary) == text_of(found)


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """Yield the address of a dask scheduler with two workers on loopback, in processes of their own."""
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("distributed is not installed: pip install 'kvsim[dask]'")
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--no-dashboard"]
    worker += ["--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path)]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen([*dask, "--no-dashboard", "--scheduler-file", str(file)], **quiet)]
    try:
        deadline_s = time.monotonic() + 60
        while not file.exists() or not file.read_text(encoding="utf-8").strip():
            assert processes[0].poll() is None and time.monotonic() < deadline_s, "no scheduler"
            time.sleep(0.05)
        processes += [subprocess.Popen(worker, **quiet) for _ in range(2)]
        yield json.loads(file.read_text(encoding="utf-8"))["address"]
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:  # a busy machine; the test has what it came for
                process.kill()
                process.wait()


def test_two_workers_of_a_dask_cluster_find_what_processes_find(tmp_path: Path, scheduler: str) -> None:
    found = swept(tmp_path / "cluster", *SMALL, scheduler=scheduler)
    assert found.num_simulated == 8
    assert len(kept(tmp_path / "cluster")) == 8
    assert text_of(found) == run_of(*SMALL)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("tcp://127.0.0.1:9", r"--dask tcp://127\.0\.0\.1:9: no scheduler listens there: Connection refused"),
        ("nonsense", r"--dask 'nonsense': no address of a scheduler, as in tcp://10\.0\.0\.1:8786"),
        ("tcp://127.0.0.1:x", r"--dask 'tcp://127\.0\.0\.1:x': no address of a scheduler"),
    ],
)
def test_an_address_where_no_scheduler_listens_is_one_line(tmp_path: Path, address: str, problem: str) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(KvsimError, match=problem) as caught:
        swept(tmp_path, *SMALL, scheduler=address)
    assert "\n" not in str(caught.value)


def test_a_cluster_that_goes_away_is_one_line_and_what_is_finished_is_kept(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("distributed")

    class GoneError(Exception):
        """What distributed raises when a worker was killed too often."""

    def killed(*arguments: Any, **options: Any) -> Any:
        raise GoneError("killed\nfour times")

    monkeypatch.setattr(sweep_module, "cluster", killed)
    with pytest.raises(
        KvsimError, match=r"--dask tcp://x:1: GoneError: killed four times; the finished cells are kept"
    ):
        swept(tmp_path, *SMALL, scheduler="tcp://x:1")


ORPHAN = """
import os, signal, sys
from pathlib import Path
from kvsim.experiments.decode.workers import in_worker
import joblib

def work(number, marks):
    Path(marks, str(os.getpid())).touch()
    os.kill(os.getppid(), signal.SIGKILL) if number == 3 else None
    return number

if __name__ == "__main__":
    tasks = (joblib.delayed(in_worker)(os.getpid(), work, number, sys.argv[1]) for number in range(4))
    joblib.Parallel(n_jobs=2)(tasks)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "orphan.py").write_text(ORPHAN)
    marks = tmp_path / "marks"
    marks.mkdir()
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "orphan.py", str(marks)], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    workers = [int(mark.name) for mark in marks.iterdir()]
    assert workers
    deadline_s = time.monotonic() + 60
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < deadline_s, "workers outlive their parent"
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and ") Z " in state.read_text())  # dead, and nobody has asked for its exit code
