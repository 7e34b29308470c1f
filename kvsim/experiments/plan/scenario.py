"""The decode scenario that a plan simulates, and as the TOML file that reproduces it."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import tomli_w

from kvsim.errors import ScenarioError
from kvsim.experiments.plan.choices import PAGE_TOKENS, RECENT_PAGES, SINK_PAGES, Choices
from kvsim.experiments.plan.request import Request
from kvsim.scenario.decode import Scenario
from kvsim.scenario.file import parse_scenario
from kvsim.scenario.shapes import ModelShape
from kvsim.types import pages_of

TRACE = "smollm2-docs"
"""The capture that accesses are extrapolated from."""
MIDDLE_GROWTH_FRAC = 0.13
"""What that trace's recent window lost to the middle at the one doubling of its context that was measured."""
MAX_STEPS, MIN_STEPS = 12, 6
"""Steps that are simulated, the first half of them to warm up. Of llama-3.1-70b on an H100 at 128k tokens and qwen3-8b
on an RTX 4090 at 4 x 64k, times of 12 steps lie within 6% of those of 48, and times of 6 within 11%."""
STEP_PAGES = 2**20
"""Pages of all steps together, about: from there on there are fewer than `MAX_STEPS`."""
GENERATED_PAGES = 2**21
"""Pages that are generated in all, about: a batch that has more repeats its first sequences."""


def make_scenario(request: Request, shape: ModelShape, choices: Choices) -> Scenario:
    """Return the scenario of all choices; `write_scenario` makes a file of it.

    The context is that of the last step. Formats other than the first go with the first budget and share of pages, and
    budgets with the first share.
    """
    return parse_scenario(Scenario, _tables(request, shape, choices), where="plan")


def write_scenario(scenario: Scenario | None, request: Request, path: Path, command: str) -> None:
    """Write the scenario as a TOML file.

    Raises
    ------
    ScenarioError
        If there is none, or it cannot be written.
    """
    if scenario is None:
        raise ScenarioError(
            f"{path}: not written: kvsim does not simulate {request.spec.name} at {request.context_tokens:,} tokens in "
            "pages, and its plan has no scenario"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(scenario_text(scenario, request, command), encoding="utf-8")
    except OSError as problem:
        raise ScenarioError(f"{path}: cannot be written: {problem.strerror}") from None


def scenario_text(scenario: Scenario, request: Request, command: str) -> str:
    """Return the scenario as TOML, with the command that made it."""
    tables = scenario.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    head = [
        f"# Written by: {command}",
        f"# {request.spec.name} on {request.card.title}: {request.batch} x {request.context_tokens:,} tokens.",
        "# `kvsim run` simulates it; docs/plan.md lists what is assumed.",
    ]
    return "\n".join([*head, "", tomli_w.dumps(tables)])


def _tables(request: Request, shape: ModelShape, choices: Choices) -> dict[str, Any]:
    num_steps = _num_steps(request, shape)
    moves_pages = bool(choices.budgets_bytes)
    sweep: dict[str, Any] = {"model.weights": list(choices.weights), "model.kv": list(choices.kvs)}
    if moves_pages:
        sweep |= {"budget.bytes": list(choices.budgets_bytes), "selector.k_pages": list(choices.ks_pages)}
    return {
        "schema_version": 1,
        "name": _name(request),
        "question": f"{request.spec.name} on {request.card.name}, {request.batch} x {request.context_tokens:,} tokens",
        "page_tokens": PAGE_TOKENS,
        "model": {"shape": request.model, "dtype": request.dtype},
        "profile": {
            "card": request.gpu,
            "runtime": request.runtime,
            "device_memory": max(request.usable_bytes - request.reserve_bytes, 1),
        },
        "trace": {
            "path": TRACE,
            "num_steps": num_steps,
            "extrapolate": {
                "context_tokens": request.context_tokens - num_steps + 1,
                "sequences": _sequences(request, shape, num_steps),
                "middle_growth": MIDDLE_GROWTH_FRAC,
            },
        },
        "budget": {"bytes": choices.budgets_bytes[0]} if moves_pages else {"context_frac": 1.0},
        "selector": {
            "name": "top-k",
            "k_pages": choices.ks_pages[0] if moves_pages else 1,
            "sink_pages": SINK_PAGES,
            "recent_pages": RECENT_PAGES,
            "channel": "estimate:quest",
        },
        "run": {
            "policies": ["dense", *(["stream"] if choices.can_stream else []), *(["lru"] if moves_pages else [])],
            "batch": request.batch,
            "warmup_steps": num_steps // 2,
            "prefill_chunk_tokens": request.step_tokens,
        },
        "sweep": sweep,
        "exclude": _excluded(choices),
    }


def _excluded(choices: Choices) -> list[dict[str, Any]]:
    """Return the combinations to leave out: of what is not the first of its kind, two at once."""
    others = {
        "model.weights": [name for name in choices.weights if name != choices.paged_weights],
        "model.kv": list(choices.kvs[1:]),
        "budget.bytes": list(choices.budgets_bytes[1:]),
        "selector.k_pages": list(choices.ks_pages[1:]),
    }
    pairs = list(itertools.combinations(others, 2))[1:]  # both formats may differ at once
    return [
        {first: others[first], second: others[second]} for first, second in pairs if others[first] and others[second]
    ]


def _num_steps(request: Request, shape: ModelShape) -> int:
    pages = pages_of(request.context_tokens, PAGE_TOKENS) * shape.paged_layers * request.batch
    return max(MIN_STEPS, min(MAX_STEPS, STEP_PAGES // pages))


def _sequences(request: Request, shape: ModelShape, num_steps: int) -> int:
    pages = pages_of(request.context_tokens, PAGE_TOKENS) * shape.paged_layers * num_steps
    return max(1, min(request.batch, GENERATED_PAGES // pages))


def _name(request: Request) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"plan-{request.spec.name}-{request.card.name}")[:64]
