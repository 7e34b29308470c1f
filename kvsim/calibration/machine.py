"""What a profile says of the machine it was measured on."""

from __future__ import annotations

import ast
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import torch
import transformers

from kvsim import engine
from kvsim.profile.profile import Machine
from kvsim.profile.provenance import make_manifest
from kvsim.scenario.digest import content_digest

_ENGINE = Path(engine.__file__).parent
_TIMED = ("links", "model", "paged")
"""Folders of the engine that a timed step runs through."""

_UNTIMED = ("__init__", "first_token", "generation", "loading", "states", "timeline")
"""Modules of these folders that it does not."""


def describe_machine(*, device: str, num_threads: int, command: str) -> Machine:
    """Return the machine, with its versions, the time and the commit."""
    manifest = make_manifest(scenario_text="", scenario_hash="", seed=0, command=command)
    versions = dict(manifest["versions"]) | {"torch": torch.__version__, "transformers": transformers.__version__}
    python = versions.pop("python")
    processor = _processor()
    is_cuda = device == "cuda"
    return Machine(
        host=platform.node(),
        processor=processor,
        device=torch.cuda.get_device_name() if is_cuda else processor,
        driver=gpu_driver() if is_cuda else "",
        num_threads=num_threads,
        os=platform.platform(),
        python=python,
        versions=versions,
        date=manifest["date"],
        command=command,
        commit=manifest["commit"] or "",
        kernels=kernels_digest(),
    )


def kernels_digest(folder: Path = _ENGINE) -> str:
    """Return a digest of the engine's code that costs depend on.

    It covers the code of every module that a timed step runs through, less its comments, docstrings, layout and
    imports, whatever the modules are called: moving a file does not change it.
    """
    paths = [path for room in _TIMED for path in (folder / room).rglob("*.py") if path.stem not in _UNTIMED]
    codes = sorted(_bare(path.read_text(encoding="utf-8")) for path in paths)
    return content_digest("\n".join(codes))


def _bare(source: str) -> str:
    """Return `source` as its syntax tree would be written, without docstrings and imports."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_silent(part)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_silent(node: ast.stmt) -> bool:
    """Whether a statement computes nothing: an import, or a string by itself."""
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or isinstance(node, ast.Import | ast.ImportFrom)


def gpu_driver(file: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Return the version of NVIDIA's driver, as in ``580.159.04``; what torch was built for where there is none."""
    if file.is_file():
        match = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", file.read_text(encoding="utf-8"))
        if match is not None:
            return match[1]
    program = shutil.which("nvidia-smi")
    if program is not None:
        command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.split()[0]
    return f"CUDA {torch.version.cuda or 'unknown'}"


def device_memory_bytes(device: str) -> int:
    """Return the memory of the GPU, or of the machine where the device is emulated."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory_bytes() -> int:
    """Return the host memory that a program may still take before the system ends one: what is available, on Linux."""
    pages = os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else os.sysconf("SC_PHYS_PAGES")
    free = [os.sysconf("SC_PAGE_SIZE") * pages]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        rows = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines() if ":" in line)
        if "MemAvailable" in rows:  # what can be reclaimed, too
            free = [int(rows["MemAvailable"].split()[0]) * 1024]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file():
        most = limit.read_text(encoding="ascii").strip()
        if most.isdigit():
            free.append(int(most) - int(used.read_text(encoding="ascii")))
    return max(0, min(free))


def _processor() -> str:
    """Return the processor's name and how many of it there are, as in ``AMD EPYC, 2 CPUs``."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} CPUs"
