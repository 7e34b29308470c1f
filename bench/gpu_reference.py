"""The reference measurement of one GPU, in one resumable command: profiles, engine, cross-check, captures, experiments.

    python bench/gpu_reference.py --device cuda --out results/gpu

Each job writes its files and a record as it ends; started again, it does what is not done. A job that fails is recorded
with its error, and the others go on. docs/gpu.md says what each part is, and what has never run on a GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gpu_parts.jobs import Job, Record, Setting, is_finished, read_record, record_path
from gpu_parts.listing import PARTS, jobs_of
from gpu_parts.worker import run_jobs, watch

import kvsim

TRAINED = Path(".cache/models/smollm2-135m-instruct")
_CODE = ("engine", "calibration", "policies")


def main() -> int:
    """Do what is not done yet, and print what became of every job; 1 where one failed or was not started."""
    given = _arguments()
    names = [name.strip() for name in given.parts.split(",")]
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        sys.exit(f"unknown part {unknown[0]!r}; there are {', '.join(PARTS)}")
    setting = _setting(given)
    by_name = {job.name: job for job in jobs_of(is_small=setting.is_small)}
    if given.jobs:
        return run_jobs([by_name[name] for name in given.jobs.split(",")], setting)
    jobs = [job for job in by_name.values() if job.part in ("machine", *names)]
    if given.only:
        wanted = given.only.split(",")
        unknown = [name for name in wanted if name not in by_name]
        if unknown:
            sys.exit(f"unknown job {unknown[0]!r}; there are {', '.join(by_name)}")
        jobs = [by_name[name] for name in ("machine/manifest", *wanted)]
        names = list(dict.fromkeys(job.part for job in jobs[1:]))
    started_s = time.monotonic()
    deadline_s = started_s + 60 * given.budget_minutes
    skipped: set[str] = set()
    for place, part in enumerate(names):
        parts = {part} if place else {"machine", part}  # one process for both: torch takes its time to load
        skipped |= _run_part([job for job in jobs if job.part in parts], setting, given, deadline_s)
    return _tell(jobs, setting, skipped, time.monotonic() - started_s)


def _run_part(jobs: Sequence[Job], setting: Setting, given: argparse.Namespace, deadline_s: float) -> set[str]:
    """Run the jobs of a part that are not finished; return the names of those that were."""
    key = None if given.accept_other_code else setting.key
    finished = {job.name for job in jobs if not job.is_cheap and is_finished(setting.out, job.name, key)}
    pending = [job for job in jobs if job.name not in finished]
    for job in pending:
        record_path(setting.out, job.name).unlink(missing_ok=True)
    while pending and time.monotonic() < deadline_s:
        command = [*_again(given), "--jobs", ",".join(job.name for job in pending)]
        watch(command, pending, setting, deadline_s=deadline_s, say=lambda line: print(line, flush=True))
        left = [job for job in pending if read_record(setting.out, job.name) is None]
        if len(left) == len(pending):
            break
        pending = left
    return finished


def _tell(jobs: Sequence[Job], setting: Setting, skipped: set[str], total_s: float) -> int:
    """Print a table of all jobs; return the exit code."""
    records = [read_record(setting.out, job.name) or _not_started(job, setting) for job in jobs]
    print(f"\n{'job':<28} {'state':<12} {'seconds':>8}  what came out")
    for record in records:
        state = "done before" if record.job in skipped else record.state
        told = record.headline if record.state == "done" else record.error
        print(f"{record.job:<28} {state:<12} {record.seconds:8.1f}  {told.splitlines()[0] if told else ''}")
    by_part = {
        part: sum(record.seconds for record in records if record.job.startswith(f"{part}/"))
        for part in dict.fromkeys(job.part for job in jobs)
    }
    told = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in by_part.items())
    print(f"\n{told}; this call {total_s:.0f} s. Files in {setting.out}, what was printed in {setting.out / 'logs'}.")
    return int(any(record.state in ("failed", "not started") for record in records))


def _not_started(job: Job, setting: Setting) -> Record:
    return Record(job=job.name, state="not started", key=setting.key, error="no time was left; start again to go on")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder for everything")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"in the order to be done: {','.join(PARTS)}")
    parser.add_argument("--small", action="store_true", help="tiny shapes and few cells: to try the command itself")
    parser.add_argument("--budget-minutes", type=float, default=18.0, help="no job goes on beyond that; start again")
    parser.add_argument("--model", type=Path, default=TRAINED, help="the trained model: folder or .gguf")
    parser.add_argument(
        "--attention-table", type=Path, help="aiconfigurator-core's wheel, a folder of it, or its Parquet file"
    )
    parser.add_argument("--accept-other-code", action="store_true", help="keep what other code or versions measured")
    parser.add_argument("--only", metavar="JOB,JOB", help="only these jobs, as the table names them")
    parser.add_argument("--jobs", help=argparse.SUPPRESS)
    return parser.parse_args()


def _setting(given: argparse.Namespace) -> Setting:
    return Setting(
        device=given.device,
        out=given.out,
        is_small=given.small,
        model=given.model if given.model.exists() else None,
        attention_table=given.attention_table,
        key=_key(given),
        command=shlex.join(["python", *_again(given)[1:]]),
    )


def _key(given: argparse.Namespace) -> str:
    """Return a digest of what results depend on: device, size, versions, the code that is measured."""
    digest = hashlib.blake2b(digest_size=8)
    parts = {"device": given.device, "small": given.small, "gpu": _gpu() if given.device == "cuda" else ""}
    for package in ("torch", "transformers"):
        try:
            parts[package] = version(package)
        except PackageNotFoundError:
            parts[package] = ""
    digest.update(json.dumps(parts, sort_keys=True).encode())
    for room in _CODE:
        for path in sorted((Path(kvsim.__file__).parent / room).rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _gpu() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _again(given: argparse.Namespace) -> list[str]:
    """Return the command that runs some of the jobs in a process of their own."""
    command = [sys.executable, str(Path(__file__)), "--device", given.device, "--out", str(given.out)]
    command += ["--parts", given.parts, "--model", str(given.model)]
    if given.small:
        command.append("--small")
    if given.attention_table is not None:
        command += ["--attention-table", str(given.attention_table)]
    return command


if __name__ == "__main__":
    sys.exit(main())
