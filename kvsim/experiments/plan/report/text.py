"""A plan as text and as plain values, without pandas."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from kvsim.experiments.plan.result import Option, Plan
from kvsim.report.tables import WIDTH, aligned, wrapped
from kvsim.units import format_bytes, format_seconds

SCHEMA_VERSION = 1
HEAD = ("option", "card", "host", "fits", "TPOT", "interval", "tokens/s", "recall", "")
LEGEND = (
    "card, host: memory of one card and of the host. TPOT: time per output token; with >= the least that is possible. "
    "recall: attention recall, the share of the attention mass that is read. Pareto front: no option that fits is "
    "better in one of time, recall, cards and bits, and as good in the others."
)


def plan_text(plan: Plan) -> str:
    """Return what `kvsim plan` prints."""
    return "\n".join([*_title(plan), "", *_memory(plan), "", *_options(plan), "", *_end(plan)])


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return what `kvsim plan --json` prints; the names are a contract."""
    request = plan.request
    asked = ("tpot_s", "recall_frac", "host_memory_bytes", "utilisation_frac", "step_tokens", "runtime")
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "plan",
        "model": request.spec.name,
        "card": request.card.name,
        "context_tokens": request.context_tokens,
        "batch": request.batch,
        "asked": {name: getattr(request, name) for name in asked},
        "memory": asdict(plan.memory) | {"total_bytes": plan.memory.total_bytes, "fits": plan.memory.fits},
        "options": [asdict(option) for option in plan.options],
        "front": list(plan.front),
        "recommended": plan.recommended,
        "recommendation": list(plan.sentences),
        "warnings": list(plan.warnings),
        "notes": list(plan.notes),
        "commands": list(plan.commands),
    }


def _title(plan: Plan) -> Iterator[str]:
    request = plan.request
    sequences = "1 sequence" if request.batch == 1 else f"{request.batch:,} sequences"
    yield f"{request.spec.name} on {request.card.title}: {sequences} of {request.context_tokens:,} tokens"
    for warning in plan.warnings:
        yield from wrapped(f"Warning: {warning}")


def _memory(plan: Plan) -> Iterator[str]:
    request, memory = plan.request, plan.memory
    verdict = "fits" if memory.fits else "does not fit"
    rows = [
        (f"weights in {memory.weights}", memory.weights_bytes),
        (f"KV cache in {memory.kv}", memory.kv_bytes),
        ("activations", memory.activation_bytes),
        ("runtime", memory.reserve_bytes),
        ("total", memory.total_bytes),
        (f"usable: {request.utilisation_frac:g} of {format_bytes(memory.card_bytes)}", memory.usable_bytes),
    ]
    yield from aligned([("memory", verdict), *((name, format_bytes(size)) for name, size in rows)])
    yield ""
    yield from wrapped(largest_text(plan))


def largest_text(plan: Plan) -> str:
    """Return the largest KV cache, context and batch that fit whole."""
    request, memory = plan.request, plan.memory
    if not memory.max_kv_tokens:
        return "Nothing is left for the KV cache."
    context = f"{memory.max_context_tokens:,} tokens" if memory.max_context_tokens else "none"
    sequences = "1 sequence" if request.batch == 1 else f"{request.batch:,} sequences"
    return (
        f"The KV cache can have {format_bytes(memory.max_kv_bytes)}: {memory.max_kv_tokens:,} tokens. Largest context "
        f"for {sequences}: {context}. Largest batch at {request.context_tokens:,} tokens: {memory.max_batch or 'none'}."
    )


def _options(plan: Plan) -> Iterator[str]:
    yield from aligned([HEAD, *(row_of(plan, option) for option in plan.options)], left=(0, 8))
    yield ""
    yield from wrapped(LEGEND)


def row_of(plan: Plan, option: Option) -> tuple[str, ...]:
    """Return an option as cells of the table with `HEAD`."""
    low_s, high_s = option.tpot_interval_s
    return (
        option.name,
        format_bytes(option.device_bytes),
        format_bytes(option.host_bytes) if option.host_bytes else "-",
        "yes" if option.fits else "no",
        f"{'>= ' if option.basis == 'roofline' else ''}{format_seconds(option.tpot_s)}",
        f"{format_seconds(low_s)} to {format_seconds(high_s)}",
        f"{option.tokens_per_s:,.0f}" if option.tokens_per_s >= 100 else f"{option.tokens_per_s:.3g}",
        f"{100 * option.read_frac:.0f}%",
        "recommended" if option.name == plan.recommended else "Pareto front" if option.name in plan.front else "",
    )


def _end(plan: Plan) -> Iterator[str]:
    yield from wrapped(" ".join(plan.sentences))
    yield ""
    yield "What this rests on (docs/plan.md):"
    for note in plan.notes:
        yield from textwrap.wrap(f"- {note}", WIDTH, break_on_hyphens=False, subsequent_indent="  ")
    if plan.commands:
        yield ""
        yield "To reproduce it, and to replace estimates by measurements:"
        yield from (f"  {command}" for command in plan.commands)
