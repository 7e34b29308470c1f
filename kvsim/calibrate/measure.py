"""`kvsim calibrate`: measures every cost of a decode step on this machine and returns it as a profile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kvsim.calibrate.bench import Advance, Bench
from kvsim.calibrate.fit import Sample, fit_table
from kvsim.calibrate.host_costs import HostCosts, host_samples, num_host_steps
from kvsim.calibrate.interference import Interference, measure_interference, num_interference_steps
from kvsim.calibrate.links import LinkSamples, link_samples, num_link_points
from kvsim.calibrate.machine import describe_machine, device_memory_bytes
from kvsim.calibrate.plan import FULL, QUICK, Plan
from kvsim.calibrate.prefill_cost import num_prefills, prefill_samples
from kvsim.calibrate.random_inputs import random_model, random_tokens
from kvsim.calibrate.segments import num_segment_steps, segment_samples
from kvsim.calibrate.timers import Neighbours, repeat_s
from kvsim.engine.stamps import Stamps
from kvsim.engine.weights import load_model, shape_of
from kvsim.errors import CalibrationError
from kvsim.hardware import SEGMENTS, CostTable, Link, LinkCost, Profile, SegmentCost
from kvsim.models import SHAPES, DType, ModelShape
from kvsim.strict import nearest

DEFAULT_BANDWIDTH_BYTES_PER_S = 0.2e9
"""Of the emulated link. At 0.2 GB/s a miss costs SmolLM2 on a laptop's core about what a tenth of a layer does; a CPU's
own memory is so fast beside its arithmetic that, not held back, misses would not show."""

_FEW_LAYERS = 4

Progress = Callable[[str, float, float], None]
"""Told the stage, how much of it is done, and how much there is."""


def calibrate(
    model: Path | str | None = None,
    *,
    shape: str | ModelShape | None = None,
    dtype: DType | None = None,
    device: str = "cpu",
    name: str = "",
    quick: bool = False,
    bandwidth_bytes_per_s: float = DEFAULT_BANDWIDTH_BYTES_PER_S,
    command: str = "",
    progress: Progress | None = None,
) -> Profile:
    """Return what this machine's decode steps and copies cost.

    Parameters
    ----------
    model
        Folder, hub id or GGUF file; or give `shape`.
    shape
        A name of `kvsim.models.SHAPES`, or the sizes: random weights, and a few layers that stand for all.
    dtype
        Of weights and cache; bf16 where absent, or what `shape` says.
    bandwidth_bytes_per_s
        What the emulated link of a machine without a GPU is held to.

    Raises
    ------
    CalibrationError
        If there is no such device or shape, or neither or both of `model` and `shape` are given.
    KvsimError
        If `model` cannot be loaded.
    """
    if device == "cuda":
        _need_cuda()
        raise CalibrationError("device cuda: not finished; calibrate with --device cpu")
    if bandwidth_bytes_per_s <= 0:
        raise CalibrationError(f"bandwidth of the emulated link: {bandwidth_bytes_per_s:g} bytes a second; give more")
    plan = QUICK if quick else FULL
    loaded, full_shape = _model(model, shape, dtype, device, num_layers=2 if quick else _FEW_LAYERS)
    with torch.inference_mode(), _one_thread():
        return _measure_cpu(
            loaded, full_shape, plan, bandwidth_bytes_per_s, progress or _silent, name or _name(model, shape), command
        )


def _measure_cpu(
    model: Any, shape: ModelShape, plan: Plan, bandwidth_bytes_per_s: float, progress: Progress, name: str, command: str
) -> Profile:
    neighbours = Neighbours()
    num_layers = model.config.num_hidden_layers
    tokens = random_tokens(shape, num_layers, plan.max_context_tokens, device="cpu")
    bench = Bench(
        model=model,
        shape=shape,
        tokens=tokens,
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        plan=plan,
        advance=_advance(progress, "compute", num_segment_steps(plan)),
    )
    instrument_s = _instrument_s()
    segments = segment_samples(bench)
    bench.advance = _advance(progress, "decisions", num_host_steps(plan) + num_interference_steps(plan))
    host = host_samples(bench)
    interference = measure_interference(bench)
    link = link_samples(
        tokens,
        plan,
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        advance=_advance(progress, "link", num_link_points(plan)),
    )
    prefills = prefill_samples(
        model,
        tokens,
        plan,
        num_layers=shape.num_layers,
        advance=_advance(progress, "prefill", num_prefills(plan)),
    )
    return Profile(
        schema_version=1,
        name=name,
        kind="measured",
        notes=_notes(num_layers, shape, neighbours.busy_frac()),
        device="cpu",
        synchronous=True,
        runtime="eager",
        device_memory_bytes=device_memory_bytes("cpu"),
        page_tokens=plan.page_tokens,
        shape=shape,
        machine=describe_machine(device="cpu", num_threads=torch.get_num_threads(), command=command),
        segments=_segments(segments, instrument_s),
        sync_s=0.0,
        policies={policy: fit_table(samples, "pages") for policy, samples in host.decisions.items()},
        link=_link(link, host, bandwidth_bytes_per_s, interference),
        prefill=fit_table(prefills, "tokens"),
        instrument_s=instrument_s,
    )


def _segments(samples: dict[str, list[Sample]], instrument_s: float) -> dict[str, SegmentCost]:
    """Return the tables of all segments; what a layer's stamps cost is taken off its first segment."""
    tables: dict[str, CostTable] = {}
    for name in SEGMENTS:
        counted = {"select": "pages", "attention": "tokens"}.get(name, "none")
        overhead_s = instrument_s if name == "attention_input" else 0.0
        rows = [(amount, batch, max(time_s - overhead_s, 0.0)) for amount, batch, time_s in samples[name]]
        tables[name] = fit_table(rows, counted)  # type: ignore[arg-type]
    return {name: SegmentCost(device=table) for name, table in tables.items()}


def _link(samples: LinkSamples, host: HostCosts, bandwidth_bytes_per_s: float, interference: Interference) -> Link:
    return Link(
        emulated=True,
        issue="worker",
        stated_bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        to_device=LinkCost(
            transfer=fit_table(samples.to_device, "pieces"), submit_s=host.submit_s, mechanism="emulated"
        ),
        to_host=LinkCost(
            transfer=fit_table(samples.to_host, "pieces"), submit_s=host.write_back_s, mechanism="emulated"
        ),
        both_ways_slowdown_frac=samples.both_ways_slowdown_frac,
        compute_slowdown_frac=interference.slowdown_frac,
        resume_s=interference.resume_s,
    )


def _notes(num_layers: int, shape: ModelShape, neighbours_frac: float) -> str:
    layers = "" if num_layers == shape.num_layers else f" Random weights; {num_layers} layers stood for all."
    return (
        "Compute on one thread; the link is emulated: a worker thread copies each page and holds it to the stated "
        "bandwidth. A sample of a segment is the mean over the layers of one step. Reading scores back waits for "
        f"nothing here and is part of select.{layers} Other programs used {100 * neighbours_frac:.0f}% of a processor "
        "meanwhile."
    )


def _model(
    path: Path | str | None, shape: str | ModelShape | None, dtype: DType | None, device: str, num_layers: int
) -> tuple[Any, ModelShape]:
    if (path is None) == (shape is None):
        raise CalibrationError("give a model or a shape, one of the two")
    if path is not None:
        model, _ = load_model(path, dtype or "bf16", device)
        return model, shape_of(model)
    if isinstance(shape, str):
        if shape not in SHAPES:
            raise CalibrationError(f"unknown shape {shape!r}{nearest(shape, SHAPES)}")
        shape = SHAPES[shape]
    assert shape is not None
    if dtype is not None:
        shape = shape.model_copy(update={"dtype": dtype})
    return random_model(shape, min(num_layers, shape.num_layers), device), shape


def _name(model: Path | str | None, shape: str | ModelShape | None) -> str:
    if model is not None:
        return f"cpu-{Path(model).name.lower()}"
    return f"cpu-{shape if isinstance(shape, str) else 'model'}"


def _need_cuda() -> None:
    if not torch.cuda.is_available():
        raise CalibrationError(
            "no CUDA device: torch sees no GPU here; calibrate with --device cpu, or where there is one"
        )


def _silent(stage: str, done: float, total: float) -> None:
    """Show nothing."""
    del stage, done, total


def _advance(progress: Progress, stage: str, total: int) -> Advance:
    done = 0

    def advance(steps: int) -> None:
        nonlocal done
        done += steps
        progress(stage, done, total)

    return advance


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _instrument_s() -> float:
    """Return what one layer's hook and stamps cost, timed on a module that does nothing."""
    bare, hooked, stamps = nn.Identity(), nn.Identity(), Stamps()

    def mark(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        del module, inputs
        stamps.mark()

    hooked.register_forward_pre_hook(mark)

    def call_s(work: Callable[[], object]) -> float:
        def often() -> None:
            for _ in range(2000):
                work()

        return float(np.median(repeat_s(often, cap_s=0.1)) / 2000)

    return max(0.0, call_s(lambda: hooked(None)) - call_s(lambda: bare(None)) + 8 * call_s(stamps.mark))
