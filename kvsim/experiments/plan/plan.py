"""`plan`: a model, a card, a context and a batch in; what fits, the options and a recommendation out."""

from __future__ import annotations

from typing import Any

from kvsim.experiments.plan.choices import SIXTEEN_BITS, choices_of
from kvsim.experiments.plan.memory import Memory, memory_of
from kvsim.experiments.plan.notes import commands_of, notes_of, warnings_of
from kvsim.experiments.plan.recommend import pareto_front, recommended, sentences
from kvsim.experiments.plan.request import Request, make_request
from kvsim.experiments.plan.result import Option, Plan
from kvsim.experiments.plan.roofline import roofline_options
from kvsim.experiments.plan.scenario import make_scenario
from kvsim.experiments.plan.simulate import simulated_options
from kvsim.profile.estimate.estimate import unpriced
from kvsim.scenario.decode import Scenario
from kvsim.scenario.shapes import shape_of_spec, unpaged


def plan(model: str, gpu: str, *, context_tokens: int, batch: int = 1, **options: Any) -> Plan:
    """Return a plan as `kvsim.plan` (`kvsim.experiments.plan.library`) documents it, without the data frames."""
    request = make_request(model, gpu, context_tokens=context_tokens, batch=batch, **options)
    memory = memory_of(request)
    unsimulated = unpaged(request.spec, context_tokens)
    if not unsimulated:
        unsimulated = list(filter(None, [unpriced(shape_of_spec(request.spec, request.dtype))]))
    priced, scenario = (_roofline(request), None) if unsimulated else _simulated(request, memory)
    choice = recommended(request, priced)
    return Plan(
        request=request,
        memory=memory,
        options=tuple(priced),
        front=pareto_front(priced),
        recommended=choice.name if choice else None,
        sentences=sentences(request, priced, choice),
        warnings=warnings_of(request),
        notes=notes_of(request, unsimulated, priced),
        commands=commands_of(request, scenario),
        scenario=scenario,
    )


def _simulated(request: Request, memory: Memory) -> tuple[list[Option], Scenario]:
    shape = shape_of_spec(request.spec, request.dtype)
    choices = choices_of(request, shape)
    scenario = make_scenario(request, shape, choices)
    return simulated_options(request, scenario, choices, memory), scenario


def _roofline(request: Request) -> list[Option]:
    own = request.weights or request.own_weights()
    weights = [None, *(["int4"] if own != "int4" else [])]
    kvs = [None, *(["fp8"] if (request.kv or request.dtype) in SIXTEEN_BITS else [])]
    return roofline_options(request, [(packed, kv) for packed in weights for kv in kvs])
