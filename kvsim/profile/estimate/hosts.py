"""Host time of a step: one launch of a whole graph, or every kernel from Python."""

from __future__ import annotations

from typing import Literal, TypeAlias

from kvsim.profile.estimate.assumptions import Assumptions, Decision
from kvsim.profile.estimate.coefficients import Coefficients, HostTime
from kvsim.profile.profile import SegmentCost
from kvsim.profile.tables import CostTable

Runtime: TypeAlias = Literal["eager", "graph"]

LAYER = ("attention_input", "attention", "attention_output")
"""Segments that every decoder layer launches."""


def with_launches(
    devices: dict[str, CostTable], runtime: Runtime, coefficients: Coefficients, assumptions: Assumptions
) -> dict[str, SegmentCost]:
    """Return segments with the host time to launch them.

    Of a graph the host pays one time a step, at its start; of eager kernels a time for each launch.
    """
    if runtime == "graph":
        step = _launched(coefficients.graph_step, 1.0)
        return {
            name: SegmentCost(device=device, host=step if name == "embed" else None) for name, device in devices.items()
        }
    eager, layer = assumptions.eager, coefficients.eager_layer
    per_layer = sum(eager.launches[name] for name in LAYER)
    return {
        name: SegmentCost(device=device, host=_launched(layer, eager.launches[name] / per_layer), tail_s=eager.tail_s)
        for name, device in devices.items()
    }


def decision_costs(assumptions: Assumptions) -> dict[str, CostTable]:
    """Return host times of decisions by policy name."""
    return {
        "resident": CostTable(
            amount="none", amounts=(0.0,), batches=(1.0,), time_s=((0.0,),), source="assumption: nothing to decide"
        ),
        "stream": _decision(assumptions.stream),
        "*": _decision(assumptions.decide),
    }


def _launched(host: HostTime, share: float) -> CostTable:
    return CostTable(
        amount="none",
        amounts=(0.0,),
        batches=(1.0,),
        time_s=((float(f"{host.time_s * share:.6g}"),),),
        residual_low_frac=host.low_frac,
        residual_high_frac=host.high_frac,
        source=host.source,
    )


def _decision(decision: Decision) -> CostTable:
    many = 10_000.0
    return CostTable(
        amount="pages",
        amounts=(0.0, many),
        batches=(1.0,),
        time_s=((decision.fixed_s,), (decision.fixed_s + many * decision.page_s,)),
        residual_low_frac=decision.low_frac,
        residual_high_frac=decision.high_frac,
        source=decision.source,
    )
