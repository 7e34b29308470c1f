"""What `kvsim model list` and `kvsim model show` print."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kvsim.report.tables import aligned, wrapped
from kvsim.scenario.models.describe import Description, LayerRow, kv_line
from kvsim.scenario.models.known import KnownModel
from kvsim.scenario.models.listing import CONTEXT_TOKENS, ModelRow
from kvsim.units import format_bytes


def model_list_text(rows: Iterable[ModelRow]) -> str:
    """Return one line for each model."""
    head = ("name", "parameters", "active", "layers", "KV a token", f"KV at {CONTEXT_TOKENS // 1024}k", "page by page")
    lines = aligned([head, *map(_listed, rows)], left=(0, 6))
    return "\n".join([*lines, "", f"KV in bf16, of one sequence. {PAGED}"])


PAGED = (
    "page by page: layers are alike and attend to the whole context, or hold a window beside such layers; else memory "
    "and step totals only."
)


def model_text(shown: Description, not_paged: str, source: KnownModel | None) -> str:
    """Return everything that is shown of one model.

    Parameters
    ----------
    not_paged
        Why its cache is not simulated page by page; empty where it is.
    source
        Where the configuration of a model that ships was read.
    """
    parts = [_caption(shown), *_layers(shown), *_weights(shown), *_cache(shown)]
    parts += ["", *wrapped(f"Simulated page by page: {f'no, {not_paged}' if not_paged else 'yes'}.")]
    if shown.not_counted:
        parts += wrapped(f"Not counted: {', '.join(shown.not_counted)}.")
    if shown.unread:
        parts += wrapped(f"Keys of the configuration that kvsim does not know: {', '.join(shown.unread)}.")
    if source:
        parts += wrapped(f"Configuration: {source.hub}, {source.source}; {source.date}.")
    return "\n".join(parts)


def _listed(row: ModelRow) -> tuple[str, ...]:
    active = row.num_active_parameters
    return (
        row.name,
        _billions(row.num_parameters),
        "-" if active == row.num_parameters else _billions(active),
        str(row.num_layers),
        format_bytes(row.token_bytes),
        format_bytes(row.context_bytes),
        row.not_paged or "yes",
    )


def _billions(parameters: int) -> str:
    return f"{parameters / 1e9:.3g} B" if parameters >= 0.9995e9 else f"{parameters / 1e6:.3g} M"


def _caption(shown: Description) -> str:
    active = shown.num_active_parameters
    experts = "" if active == shown.num_parameters else f", {active:,} active for a token"
    positions = f", {shown.max_positions:,} positions" if shown.max_positions else ""
    return f"{shown.name} ({shown.model_type}): {shown.num_parameters:,} parameters{experts}{positions}"


def _layers(shown: Description) -> Iterator[str]:
    head = ("layers", "number", "attention", "MLP", "parameters each", "KV a token", "holds at most", "state")
    yield ""
    yield from aligned([head, *map(_layer, shown.layers)], left=(0, 2, 3))
    yield ""
    parts = ", ".join(f"{part} {numbers:,}" for part, numbers in shown.parts.items())
    yield from wrapped(f"Parameters by part: {parts}.")


def _layer(row: LayerRow) -> tuple[str, ...]:
    layers = row.layers if len(row.layers) <= 24 else f"{row.layers[:18].rpartition(',')[0]}, ..."
    held = f"{row.max_held_tokens:,} tokens" if row.max_held_tokens else "all"
    return (
        layers,
        str(row.num_layers),
        row.attention or "none",
        row.mlp or "none",
        f"{row.parameters:,}",
        format_bytes(row.token_bytes),
        held if row.token_bytes else "-",
        format_bytes(row.state_bytes) if row.state_bytes else "-",
    )


def _weights(shown: Description) -> Iterator[str]:
    yield ""
    sizes = ", ".join(f"{name} {format_bytes(size)}" for name, size in shown.weights.items())
    yield from wrapped(f"Weights: {sizes}.")


def _cache(shown: Description) -> Iterator[str]:
    yield ""
    yield from wrapped(
        f"KV cache of one sequence in {shown.kv}, in bytes: {'; '.join(kv_line(piece) for piece in shown.pieces)}."
    )
    yield from aligned([("context", "KV"), *((f"{n:,}", format_bytes(size)) for n, size in shown.contexts.items())])
    formats = ", ".join(f"{name} {format_bytes(size)}" for name, size in shown.formats.items())
    yield from wrapped(f"At {max(shown.contexts):,} tokens: {formats}.")
