"""Calibration with the costs of all experiments, as `kvsim.calibrate` offers it."""

from __future__ import annotations

from pathlib import Path

from kvsim.calibration import calibrate as calibrate_decode
from kvsim.calibration.measure import Progress
from kvsim.experiments.registry import all_cost_tables
from kvsim.profile.profile import Profile
from kvsim.scenario.shapes import DType, ModelShape, Quantisation


def calibrate(
    model: Path | str | None = None,
    *,
    shape: str | ModelShape | None = None,
    dtype: DType | None = None,
    quantisation: Quantisation | None = None,
    device: str = "cpu",
    name: str = "",
    quick: bool = False,
    bandwidth_bytes_per_s: float | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> Profile:
    """Return what decode steps, copies and the other caches cost on this machine. It needs torch and transformers.

    Parameters
    ----------
    model
        Folder, hub id or GGUF file; or give `shape`.
    shape
        A known shape by name, or all sizes: random weights stand in.
    quick
        Under a minute, with a coarser grid.
    bandwidth_bytes_per_s
        What the emulated link of a machine without a GPU is held to.
    command
        The command line, for the profile's record of how it was made.

    Raises
    ------
    KvsimError
        If there is no such device or shape, or the model cannot be loaded.
    """
    return calibrate_decode(
        model,
        shape=shape,
        dtype=dtype,
        quantisation=quantisation,
        device=device,
        name=name,
        quick=quick,
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        command=command,
        progress=progress,
        cost_tables=all_cost_tables(),
    )
