"""What a profile says of the machine it was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
import transformers

from kvsim.hardware import Machine
from kvsim.results import make_manifest


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
        driver=str(torch.version.cuda or "") if is_cuda else "",
        num_threads=num_threads,
        os=platform.platform(),
        python=python,
        versions=versions,
        date=manifest["date"],
        command=command,
        commit=manifest["commit"] or "",
    )


def device_memory_bytes(device: str) -> int:
    """Return the memory of the GPU, or of the machine where the device is emulated."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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
