"""Runs jobs one after the other in a process of their own, which a fault of CUDA or a time limit may end."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from gpu_parts.jobs import Job, LeftOutError, Record, Setting, digest_of, write_record

BROKEN = 3
"""Exit code of a process whose CUDA context is lost: the jobs that are left want another."""

_POLL_S = 0.2


def run_jobs(jobs: Sequence[Job], setting: Setting) -> int:
    """Run `jobs` here, each with its record; return the exit code of the process."""
    for job in jobs:
        marker_of(setting.out).write_text(job.name, encoding="utf-8")
        print(f"\n--- {job.name} ({datetime.now(UTC):%H:%M:%S} UTC)", flush=True)
        record, is_broken = _run(job, setting)
        write_record(setting.out, record)
        print(
            f"--- {job.name}: {record.state} in {record.seconds:.1f} s. {record.headline or record.error}", flush=True
        )
        if is_broken:
            return BROKEN
        _free()
    return 0


def _run(job: Job, setting: Setting) -> tuple[Record, bool]:
    started_s = time.perf_counter()
    record = Record(job=job.name, state="done", key=setting.key, date=datetime.now(UTC).isoformat(timespec="seconds"))
    is_broken = False
    try:
        outcome = job.run(setting)
        record.headline = outcome.headline
        record.files = {path.relative_to(setting.out).as_posix(): digest_of(path) for path in outcome.files}
    except LeftOutError as reason:
        record.state, record.error = "left out", str(reason)
    except Exception as problem:  # whatever it is, the other jobs go on
        traceback.print_exc()
        record.state, record.error = "failed", f"{type(problem).__name__}: {problem}"[:400]
        is_broken = "CUDA error" in str(problem)
    record.seconds = time.perf_counter() - started_s
    return record, is_broken


def _free() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def marker_of(out: Path) -> Path:
    """Return the file that names the job under way."""
    return out / "jobs" / ".running"


def watch(
    command: Sequence[str], jobs: Sequence[Job], setting: Setting, *, deadline_s: float, say: Callable[[str], None]
) -> None:
    """Run `command`, which runs `jobs`, until it ends or a limit passes; record what it could not record itself.

    Parameters
    ----------
    deadline_s
        When the whole must be over, on the clock of `time.monotonic`.
    """
    by_name = {job.name: job for job in jobs}
    marker = marker_of(setting.out)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    log = setting.folder("logs") / f"{jobs[-1].part}.txt"
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        current, since_s, why = "", time.monotonic(), ""
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_S)
                now_s = time.monotonic()
                found = marker.read_text(encoding="utf-8") if marker.is_file() else ""
                if found and found != current:
                    current, since_s = found, now_s
                    say(f"{current} ...")
                limit_s = by_name[current].limit_s if current in by_name else max(job.limit_s for job in jobs)
                if now_s > deadline_s:
                    why = "stopped: the budget of the whole is used up"
                elif now_s - since_s > limit_s:
                    why = f"stopped after its limit of {limit_s:.0f} s"
                if why:
                    break
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    if why or process.returncode not in (0, BROKEN):
        error = why or f"its process ended with {process.returncode}; see {log}"
        name = current or jobs[0].name
        seconds = time.monotonic() - since_s
        write_record(setting.out, Record(job=name, state="failed", key=setting.key, seconds=seconds, error=error))
    marker.unlink(missing_ok=True)
