"""Where the reference was measured: GPU, driver, versions, date, commit and command, in one manifest."""

from __future__ import annotations

import platform
from importlib.metadata import distributions

import torch

from gpu_parts.jobs import Outcome, Setting, write_json
from kvsim.calibration.machine import describe_machine, device_memory_bytes

_PACKAGES = ("torch", "transformers", "triton", "numpy", "numba", "accelerate", "safetensors")


def write_manifest(setting: Setting) -> Outcome:
    """Write ``manifest.json``."""
    machine = describe_machine(device=setting.device, num_threads=torch.get_num_threads(), command=setting.command)
    contents = machine.model_dump(mode="json") | {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if setting.device == "cuda" else None,
        "device_memory_bytes": device_memory_bytes(setting.device),
        "is_small": setting.is_small,
        "packages": {
            found.metadata["Name"]: found.version for found in distributions() if found.metadata["Name"] in _PACKAGES
        },
        "uname": platform.uname()._asdict(),
    }
    if setting.device == "cuda":
        told = torch.cuda.get_device_properties(0)
        contents["gpu"] = {
            "name": told.name,
            "compute": f"{told.major}.{told.minor}",
            "sms": told.multi_processor_count,
        }
    path = write_json(setting.out / "manifest.json", contents)
    return Outcome(
        headline=f"{machine.device}, torch {torch.__version__}, driver {machine.driver or '-'}", files=[path]
    )
