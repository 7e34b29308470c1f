"""What `kvsim model list` prints: one row of plain values for every model that ships."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kvsim.scenario.models.known import known_model, known_models
from kvsim.scenario.models.memory import kv_bytes, kv_pieces
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.uniform import differences

CONTEXT_TOKENS = 32_768
"""The context whose cache is listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One model in a list."""

    name: str
    hub: str
    num_parameters: int
    num_active_parameters: int
    num_layers: int
    max_positions: int | None
    token_bytes: int
    """KV cache in bf16 for one more token of a long context."""
    context_bytes: int
    """KV cache in bf16 of one sequence of `CONTEXT_TOKENS`, or of as many as it has learned positions."""
    not_paged: str
    """Why its cache is not simulated page by page; empty where it is."""


def list_models() -> Iterator[ModelRow]:
    """Yield every model that ships, by name."""
    return (_row(known_model(name), entry.hub) for name, entry in known_models().items())


def _row(spec: ModelSpec, hub: str) -> ModelRow:
    return ModelRow(
        name=spec.name,
        hub=hub,
        num_parameters=spec.num_parameters,
        num_active_parameters=spec.num_active_parameters,
        num_layers=len(spec.layers),
        max_positions=spec.max_positions,
        token_bytes=kv_pieces(spec)[-1].token_bytes,
        context_bytes=kv_bytes(spec, min(CONTEXT_TOKENS, spec.most_positions or CONTEXT_TOKENS)),
        not_paged="; ".join(differences(spec)),
    )
