"""A plan as text, and as plain values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from kvsim.experiments.plan.memory import Memory
from kvsim.experiments.plan.result import Option, Plan
from kvsim.report.text import aligned, wrapped
from kvsim.units import format_bytes, format_seconds

SCHEMA_VERSION = 1


def plan_text(plan: Plan) -> str:
    """Return what `kvsim plan` prints."""
    return "\n".join([*_memory(plan), "", *_options(plan), "", *_end(plan)])


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
        "notes": list(plan.notes),
        "commands": list(plan.commands),
    }


def _memory(plan: Plan) -> Iterator[str]:
    request, memory = plan.request, plan.memory
    yield f"{request.spec.name} on {request.card.title}: {request.batch} x {request.context_tokens:,} tokens"
    yield ""
    verdict = "fits" if memory.fits else "does not fit"
    rows = [
        (f"weights in {memory.weights}", memory.weights_bytes),
        (f"KV cache in {memory.kv}", memory.kv_bytes),
        ("activations", memory.activation_bytes),
        ("runtime", memory.reserve_bytes),
        ("together", memory.total_bytes),
        (f"{request.utilisation_frac:g} of {format_bytes(memory.card_bytes)}", memory.usable_bytes),
    ]
    yield from aligned([("memory", verdict), *((name, format_bytes(size)) for name, size in rows)])
    yield ""
    yield _largest(plan, memory)


def _largest(plan: Plan, memory: Memory) -> str:
    if not memory.max_kv_tokens:
        return "Nothing is left for the KV cache."
    request = plan.request
    context = f"{memory.max_context_tokens:,} tokens" if memory.max_context_tokens else "none"
    return (
        f"Left for the KV cache: {format_bytes(memory.max_kv_bytes)}, {memory.max_kv_tokens:,} tokens. Largest context "
        f"for {request.batch}: {context}; largest batch at {request.context_tokens:,}: {memory.max_batch or 'none'}."
    )


def _options(plan: Plan) -> list[str]:
    head = ("option", "card", "host", "fits", "time per token", "from", "to", "tokens/s", "mass", "")
    return aligned([head, *(_row(plan, option) for option in plan.options)], left=(0, 9))


def _row(plan: Plan, option: Option) -> tuple[str, ...]:
    low_s, high_s = option.tpot_interval_s
    marks = [word for word, is_so in _marks(plan, option) if is_so]
    return (
        option.name,
        format_bytes(option.device_bytes),
        format_bytes(option.host_bytes) if option.host_bytes else "-",
        "yes" if option.fits else "no",
        f"{'>= ' if option.basis == 'roofline' else ''}{format_seconds(option.tpot_s)}",
        format_seconds(low_s),
        format_seconds(high_s),
        f"{option.tokens_per_s:,.0f}" if option.tokens_per_s >= 100 else f"{option.tokens_per_s:.3g}",
        "100%" if option.recall_frac is None else f"{100 * option.recall_frac:.1f}%",
        ", ".join(marks),
    )


def _marks(plan: Plan, option: Option) -> Iterator[tuple[str, bool]]:
    yield "recommended", option.name == plan.recommended
    yield "on the front", option.name in plan.front and option.name != plan.recommended


def _end(plan: Plan) -> Iterator[str]:
    yield from wrapped(" ".join(plan.sentences))
    yield ""
    for note in plan.notes:
        yield from wrapped(note)
    if plan.commands:
        yield ""
        yield "To put measurements in the place of estimates:"
        yield from (f"  {command}" for command in plan.commands)
