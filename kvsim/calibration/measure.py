"""`kvsim calibrate`: measures every cost of a decode step on this machine and returns it as a profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from kvsim.calibration import cuda
from kvsim.calibration.bench import WARMUP_STEPS, Advance, Bench
from kvsim.calibration.fit import Sample, fit_table
from kvsim.calibration.host_costs import TIMED_POLICIES, HostCosts, Timed, host_samples, num_host_steps
from kvsim.calibration.interference import compute_slowdown_frac
from kvsim.calibration.links import link_samples, num_link_points
from kvsim.calibration.machine import describe_machine, device_memory_bytes
from kvsim.calibration.model_calls import cache_tables, num_prefills, prefill_samples
from kvsim.calibration.plan import FULL, QUICK, Plan
from kvsim.calibration.random_inputs import random_model, random_tokens
from kvsim.calibration.segments import num_segment_steps, segment_samples, speculation_samples
from kvsim.calibration.timers import Neighbours, stamping_s, torch_threads
from kvsim.engine.links.base import EmulatedLink
from kvsim.engine.links.cuda import CudaLink
from kvsim.engine.model.families import family_of
from kvsim.engine.model.loading import load_model, shape_of
from kvsim.engine.model.sdpa import cudnn_left_out
from kvsim.errors import CalibrationError
from kvsim.policies import cost_name
from kvsim.profile.profile import SCHEMA_VERSION, SEGMENTS, SPECULATE, Link, LinkCost, Profile, SegmentCost
from kvsim.profile.tables import CostTable
from kvsim.scenario.shapes import DType, ModelShape, Quantisation, find_shape

DEFAULT_BANDWIDTH_BYTES_PER_S = 0.2e9
"""Of the emulated link. At 0.2 GB/s a miss costs SmolLM2 on a laptop's core about what a tenth of a layer does; a CPU's
own memory is so fast beside its arithmetic that, not held back, misses would not show."""

_CUDA_BANDWIDTH_BYTES_PER_S = 20e9
"""What is expected of a GPU's link where it has only to be kept busy."""

_COUNTED: dict[str, Literal["tokens", "pages"]] = {"select": "pages", SPECULATE: "pages", "attention": "tokens"}

_FEW_LAYERS = 4

Progress = Callable[[str, float, float], None]
"""Called with the stage, how much of it is done, and how much there is."""


class CostTables(Protocol):
    """Measures costs that an experiment needs beside those of a decode step, by their name in `Profile.caches`."""

    def __call__(
        self,
        shape: ModelShape,
        plan: Plan,
        *,
        device: str,
        bandwidth_bytes_per_s: float | None,
        make_advance: Callable[[str, int], Callable[[int], None]],
    ) -> dict[str, CostTable]:
        """Return the tables; `bandwidth_bytes_per_s` is the emulated link's, None where there is a real one."""
        ...


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
    cost_tables: Sequence[CostTables] = (),
    policies: Sequence[Timed] = (),
) -> Profile:
    """Return what this machine's decode steps and copies cost.

    Parameters
    ----------
    model
        Folder, hub id or GGUF file; or give `shape`.
    shape
        A model by name, path or sizes: random weights in a Llama of these sizes, a few layers that stand for all.
    dtype
        Of weights and cache; bf16 where absent, or what `shape` says.
    quantisation
        Pack the model's weights as they load; a bare shape's are never packed.
    bandwidth_bytes_per_s
        What the emulated link of a machine without a GPU is held to, `DEFAULT_BANDWIDTH_BYTES_PER_S` where absent. A
        GPU's link is slowed to it: an emulated one, for a cross-check that must be able to stall.
    policies
        Whose decisions are timed besides `TIMED_POLICIES`: names and arguments.

    Raises
    ------
    CalibrationError
        If there is no such device or shape, or neither or both of `model` and `shape` are given.
    KvsimError
        If `model` cannot be loaded.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise CalibrationError(
            "no CUDA device: torch sees no GPU here; calibrate with --device cpu, or where there is one"
        )
    if bandwidth_bytes_per_s is not None and bandwidth_bytes_per_s <= 0:
        raise CalibrationError(f"bandwidth of the emulated link: {bandwidth_bytes_per_s:g} bytes a second; give more")
    full_plan = QUICK if quick else FULL
    if quantisation is not None and model is None:
        raise CalibrationError("packed weights are those of a model: give --model with --quantisation, not a shape")
    num_layers = 2 if quick else _FEW_LAYERS
    loaded, full_shape = _model(model, shape, dtype, device, num_layers=num_layers, quantisation=quantisation)
    request = _Request(
        model=loaded,
        shape=full_shape,
        quantisation=quantisation,
        plan=full_plan.within(full_shape.learned_positions),
        memory_tokens=full_plan.max_context_tokens,
        progress=progress or _silent,
        name=name or f"{device}-{_stem(model, shape)}",
        command=command,
        cost_tables=cost_tables,
        policies=list({cost_name(*timed): timed for timed in (*TIMED_POLICIES, *policies)}.values()),
    )
    with torch.inference_mode(), torch_threads(1), cudnn_left_out():
        if device == "cuda":
            return _measure_cuda(request, bandwidth_bytes_per_s)
        return _measure_cpu(request, bandwidth_bytes_per_s or DEFAULT_BANDWIDTH_BYTES_PER_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    model: Any
    shape: ModelShape
    quantisation: Quantisation | None
    plan: Plan
    memory_tokens: int
    """Tokens of random keys and values in each layer: what the largest transfers take their pages from, too."""
    progress: Progress
    name: str
    command: str
    cost_tables: Sequence[CostTables]
    policies: Sequence[Timed]

    @property
    def num_layers(self) -> int:
        """Layers that are timed: all of the shape's, or a few that stand for all."""
        return int(self.model.config.num_hidden_layers)

    def advance(self, stage: str, total: int) -> Advance:
        """Return what counts the steps of a stage and reports them."""
        done = 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            self.progress(stage, done, total)

        return advance


def _measure_cpu(request: _Request, bandwidth_bytes_per_s: float) -> Profile:
    neighbours = Neighbours()
    plan = request.plan
    tokens = random_tokens(request.shape, request.num_layers, request.memory_tokens, device="cpu")
    bench = Bench(
        model=request.model,
        shape=request.shape,
        tokens=tokens,
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        plan=plan,
        advance=request.advance("compute", num_segment_steps(plan)),
        make_link=lambda pool: EmulatedLink(pool, bandwidth_bytes_per_s),
    )
    instrument_s = stamping_s()
    segments = _tables(_compute_samples(bench), instrument_s)
    bench.advance = request.advance(
        "decisions", num_host_steps(plan, request.policies) + WARMUP_STEPS + plan.num_slowed_steps
    )
    host = host_samples(bench, request.policies)
    slowdown_frac = compute_slowdown_frac(bench)
    advance = request.advance("link", num_link_points(plan))
    link = link_samples(tokens, plan, bandwidth_bytes_per_s=bandwidth_bytes_per_s, advance=advance)
    return _profile(
        request,
        device="cpu",
        notes=(
            "The link is emulated: a worker thread copies each page and holds it to the stated bandwidth. Reading "
            f"scores back waits for nothing here and is part of select. Other programs used "
            f"{100 * neighbours.busy_frac():.0f}% of a processor meanwhile."
        ),
        segments={name: SegmentCost(device=table) for name, table in segments.items()},
        sync_s=0.0,
        host=host,
        link=Link(
            emulated=True,
            issue="worker",
            stated_bandwidth_bytes_per_s=bandwidth_bytes_per_s,
            to_device=_link_cost(link.to_device, host.submit_s, "emulated"),
            to_host=_link_cost(link.to_host, host.write_back_s, "emulated"),
            both_ways_slowdown_frac=link.both_ways_slowdown_frac,
            compute_slowdown_frac=slowdown_frac,
        ),
        tokens=tokens,
        instrument_s=instrument_s,
    )


def _measure_cuda(request: _Request, slowed_bytes_per_s: float | None) -> Profile:
    plan = request.plan
    tokens = random_tokens(request.shape, request.num_layers, request.memory_tokens, device="cuda")
    link = cuda.cuda_link_samples(tokens, plan, slowed_bytes_per_s)
    bench = Bench(
        model=request.model,
        shape=request.shape,
        tokens=tokens,
        bandwidth_bytes_per_s=_CUDA_BANDWIDTH_BYTES_PER_S,
        plan=plan,
        advance=request.advance("compute", 2 * num_segment_steps(plan)),
        make_link=lambda pool: CudaLink(
            pool, window_transfers=2, mechanism=link.mechanism, slowed_bytes_per_s=slowed_bytes_per_s
        ),
        make_stamps=cuda.HostStamps,
    )
    on_device = cuda.device_bench(bench)
    instrument_s = stamping_s()
    host_tables = _tables(_compute_samples(bench), instrument_s)
    device_tables = _tables(_compute_samples(on_device), 0.0)
    bench.advance = on_device.advance = request.advance(
        "decisions", num_host_steps(plan, request.policies) + WARMUP_STEPS + plan.num_slowed_steps
    )
    host = host_samples(bench, request.policies)
    tail_s = cuda.tail_s()
    slowed = ""
    if slowed_bytes_per_s is not None:
        slowed = " The link is slowed: behind its copy each transfer holds its stream to the stated bandwidth."
    return _profile(
        request,
        device="cuda",
        notes="Device time by events behind a pre-filled queue, host time by wall clock." + slowed,
        segments={
            name: SegmentCost(device=table, host=host_tables[name], tail_s=tail_s)
            for name, table in device_tables.items()
        },
        sync_s=cuda.read_back_s(plan.max_context_tokens // plan.middle_page_tokens),
        host=host,
        link=Link(
            emulated=slowed_bytes_per_s is not None,
            issue="stream",
            stated_bandwidth_bytes_per_s=slowed_bytes_per_s,
            to_device=_link_cost(link.to_device, host.submit_s, link.mechanism),
            to_host=_link_cost(link.to_host, host.write_back_s, "memcpy"),
            both_ways_slowdown_frac=link.both_ways_slowdown_frac,
            compute_slowdown_frac=compute_slowdown_frac(on_device),
        ),
        tokens=tokens,
        instrument_s=instrument_s,
    )


def _profile(
    request: _Request,
    *,
    device: Literal["cpu", "cuda"],
    notes: str,
    segments: dict[str, SegmentCost],
    sync_s: float,
    host: HostCosts,
    link: Link,
    tokens: torch.Tensor,
    instrument_s: float,
) -> Profile:
    plan, shape = request.plan, request.shape
    advance = request.advance("prefill", num_prefills(plan))
    prefills = prefill_samples(request.model, tokens, plan, num_layers=shape.num_layers, advance=advance)
    caches = cache_tables(request.model, tokens, plan, num_layers=shape.num_layers, make_advance=request.advance)
    stated_bytes_per_s = link.stated_bandwidth_bytes_per_s
    for measure_tables in request.cost_tables:
        caches |= measure_tables(
            shape, plan, device=device, bandwidth_bytes_per_s=stated_bytes_per_s, make_advance=request.advance
        )
    layers = ""
    if request.num_layers != shape.num_layers:
        layers = f"Random weights; {request.num_layers} layers stood for all. "
    return Profile(
        schema_version=SCHEMA_VERSION,
        name=request.name,
        kind="measured",
        notes=f"{layers}One host thread. A sample of a segment is the mean over the layers of a step. {notes}",
        device=device,
        synchronous=device == "cpu",
        runtime="eager",
        device_memory_bytes=device_memory_bytes(device),
        page_tokens=plan.page_tokens,
        shape=shape,
        quantisation=request.quantisation,
        machine=describe_machine(device=device, num_threads=torch.get_num_threads(), command=request.command),
        segments=segments,
        sync_s=sync_s,
        policies={policy: fit_table(samples, "pages", "grid_pages") for policy, samples in host.decisions.items()},
        link=link,
        prefill=fit_table(prefills, "tokens", "cached_tokens"),
        caches=caches,
        instrument_s=instrument_s,
    )


def _compute_samples(bench: Bench) -> dict[str, list[Sample]]:
    """Return samples of every segment, predicting too where the model has layers enough for it."""
    predicted = speculation_samples(bench)
    return segment_samples(bench) | ({SPECULATE: predicted} if predicted else {})


def _tables(samples: dict[str, list[Sample]], instrument_s: float) -> dict[str, CostTable]:
    """Return the tables of all segments; what a layer's stamps cost is taken off its first segment."""
    tables: dict[str, CostTable] = {}
    for name in (name for name in (*SEGMENTS, SPECULATE) if name in samples):
        overhead_s = instrument_s if name == "attention_input" else 0.0
        rows = [(amount, batch, max(time_s - overhead_s, 0.0)) for amount, batch, time_s in samples[name]]
        tables[name] = fit_table(rows, _COUNTED.get(name, "none"), "sequences")
    return tables


def _link_cost(samples: list[Sample], submit_s: float, mechanism: str) -> LinkCost:
    return LinkCost(transfer=fit_table(samples, "pieces", "piece_bytes"), submit_s=submit_s, mechanism=mechanism)


def _model(
    path: Path | str | None,
    shape: str | ModelShape | None,
    dtype: DType | None,
    device: str,
    *,
    num_layers: int,
    quantisation: Quantisation | None,
) -> tuple[Any, ModelShape]:
    if (path is None) == (shape is None):
        raise CalibrationError("give a model or a shape, one of the two")
    if path is not None:
        model, _ = load_model(path, dtype or "bf16", device, quantisation=quantisation)
        if family_of(model).has_latent:
            raise CalibrationError(
                f"{path}: its layers hold one latent a token for all heads, which the simulator has no pages for; use "
                "the model with PagedCache or kvsim capture"
            )
        return model, shape_of(model)
    if isinstance(shape, str):
        shape = find_shape(shape)
    assert shape is not None
    if dtype is not None:
        shape = shape.model_copy(update={"dtype": dtype})
    return random_model(shape, min(num_layers, shape.num_layers), device), shape


def _stem(model: Path | str | None, shape: str | ModelShape | None) -> str:
    if model is not None:
        return Path(model).name.lower()
    return shape if isinstance(shape, str) else "model"


def _silent(stage: str, done: float, total: float) -> None:
    """Show nothing."""
    del stage, done, total
