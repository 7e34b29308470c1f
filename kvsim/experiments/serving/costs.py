"""Seconds of a step from a profile, and how many blocks its device has room for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kvsim.errors import CapacityError
from kvsim.experiments.base import profile_of, shape_of
from kvsim.experiments.serving.parameters import EngineParameters, SchedulingParameters
from kvsim.experiments.serving.scenario import Serving
from kvsim.profile.from_segments import serving_from_segments
from kvsim.profile.profile import Profile
from kvsim.profile.serving import ServingCosts
from kvsim.scenario.shapes import ModelShape
from kvsim.units import format_bytes


def costs_of(profile: Profile) -> ServingCosts:
    """Return what a step costs: as the profile says, or worked out from its decode and prefill."""
    return profile.serving or serving_from_segments(profile)


def interval_frac(costs: ServingCosts, totals_s: dict[str, float]) -> tuple[float, float]:
    """Return by which shares the time of all steps may be less and more, with 90% confidence.

    Errors of the tables are taken to be of one sign over a run, and weighted by the time of each; what parts of a run
    are off by averages out over a long one.

    Parameters
    ----------
    totals_s
        Seconds of each part in the run.
    """
    total_s = sum(totals_s.values())
    if total_s == 0:
        return 0.0, 0.0
    tables = costs.tables()
    edges = []
    for sign, edge in ((-1, "residual_low_frac"), (1, "residual_high_frac")):
        weighted = sum(totals_s[name] * getattr(table, edge) for name, table in tables.items()) / total_s
        medians = sum(totals_s[name] * table.median_error_frac for name, table in tables.items()) / total_s
        edges.append(weighted + sign * (costs.run_error_frac(total_s) + 1.645 * medians))
    return max(edges[0], -0.99), edges[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the device's memory is spent on."""

    device_bytes: int
    weights_bytes: int
    activation_bytes: int
    block_bytes: int
    """One block over all layers."""
    num_blocks: int
    """The null block included."""


def memory_of(scenario: Serving, profile: Profile) -> Memory:
    """Return the pool that the device has room for, or that the scenario states.

    As vLLM computes it: a share of the memory, less weights and what the longest step needs, in whole blocks.

    Raises
    ------
    CapacityError
        If the rest does not hold one request of `max_model_len`.
    """
    shape, engine = shape_of(scenario), scenario.engine
    device_bytes = scenario.profile.device_memory or profile.device_memory_bytes
    weights_bytes = shape.packed_weights_bytes(profile.quantisation)
    activation_bytes = engine.activation_memory or step_bytes(shape, engine)
    block_bytes = shape.num_layers * shape.page_bytes(engine.block_size)
    num_blocks = engine.num_gpu_blocks_override
    if num_blocks is None:
        assert engine.gpu_memory_utilization is not None, "an engine has one of them"
        left_bytes = int(device_bytes * engine.gpu_memory_utilization) - weights_bytes - activation_bytes
        num_blocks = max(left_bytes, 0) // block_bytes
    if num_blocks < engine.least_blocks:
        raise CapacityError(
            f"{scenario.name}: {num_blocks} blocks of {engine.block_size} tokens ({format_bytes(block_bytes)} each), "
            f"and one request of engine.max_model_len = {engine.max_model_len} needs {engine.least_blocks}: the device "
            f"has {format_bytes(device_bytes)}, weights take {format_bytes(weights_bytes)}, a step "
            f"{format_bytes(activation_bytes)}"
        )
    return Memory(
        device_bytes=device_bytes,
        weights_bytes=weights_bytes,
        activation_bytes=activation_bytes,
        block_bytes=block_bytes,
        num_blocks=num_blocks,
    )


def step_bytes(shape: ModelShape, parameters: SchedulingParameters) -> int:
    """Return a bound on what the longest step needs: its widest tensors, and logits in fp32 for every request."""
    logits_bytes = (parameters.max_num_seqs - 1) * shape.vocab_size * 4
    return shape.activation_bytes(1, parameters.max_num_batched_tokens) + logits_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What a cell runs on."""

    profile: Profile
    costs: ServingCosts
    memory: Memory


def platform_of(scenario: Serving, base_dir: Path | None) -> Platform:
    """Return what a cell runs on.

    Raises
    ------
    KvsimError
        If the profile cannot be had or cannot price serving, or its memory is too small.
    """
    profile = profile_of(scenario, base_dir)
    return Platform(profile=profile, costs=costs_of(profile), memory=memory_of(scenario, profile))


def parameters_of(scenario: Serving, num_blocks: int) -> EngineParameters:
    """Return the engine's parameters with the pool that was worked out."""
    names = SchedulingParameters.model_fields
    values = {name: getattr(scenario.engine, name) for name in names}
    return EngineParameters(num_gpu_blocks_override=num_blocks, **values)
