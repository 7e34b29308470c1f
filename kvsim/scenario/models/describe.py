"""What `kvsim model show` prints of a model: rows of plain values, one function a table."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.scenario.models.attention import Attention, Latent
from kvsim.scenario.models.blocks import Experts, Layer, Mixer, Mlp, State
from kvsim.scenario.models.formats import KV_FORMATS, WEIGHT_FORMATS, kv_format
from kvsim.scenario.models.memory import (
    KVPiece,
    kv_bytes,
    kv_pieces,
    layer_state_bytes,
    layer_token_bytes,
    weight_bytes,
)
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.tensors import Part, count

CONTEXTS_TOKENS = (8192, 32_768, 131_072)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """Layers that are alike."""

    layers: str
    """Their numbers, from 0, as ranges."""
    num_layers: int
    kind: str
    attention: str
    mlp: str
    parameters: int
    """Of one of them."""
    token_bytes: int
    """Of one of them, for one more token of a context that its window is not full of."""
    max_held_tokens: int | None
    """Tokens that it holds at most; None for all."""
    state_bytes: int
    """Of one of them, whatever the context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Everything that is shown of a model."""

    name: str
    model_type: str
    num_parameters: int
    num_active_parameters: int
    max_positions: int | None
    kv: str
    """The format of the KV cache that rows are counted in."""
    layers: tuple[LayerRow, ...]
    parts: dict[Part, int]
    """Parameters by part."""
    weights: dict[str, int]
    """Bytes by the format of the weights; ``published`` as the checkpoint holds them."""
    pieces: tuple[KVPiece, ...]
    """Bytes of one sequence's cache, as pieces of straight lines."""
    contexts: dict[int, int]
    """Bytes of one sequence's cache by tokens of its context."""
    formats: dict[str, int]
    """Bytes of a cache of the longest of these contexts, by the format of the KV cache."""
    not_counted: tuple[str, ...]
    unread: tuple[str, ...]


def describe(spec: ModelSpec, *, kv: str = "bf16", contexts_tokens: tuple[int, ...] = CONTEXTS_TOKENS) -> Description:
    """Return what `kvsim model show` prints.

    Contexts longer than a model with learned positions can have are left out.
    """
    limit = spec.most_positions
    contexts = [tokens for tokens in contexts_tokens if limit is None or tokens <= limit] or [limit or 0]
    return Description(
        name=spec.name,
        model_type=spec.model_type,
        num_parameters=spec.num_parameters,
        num_active_parameters=spec.num_active_parameters,
        max_positions=spec.max_positions,
        kv=kv,
        layers=layer_rows(spec, kv),
        parts=spec.parameters_by_part(),
        weights=weight_rows(spec),
        pieces=kv_pieces(spec, kv),
        contexts={tokens: kv_bytes(spec, tokens, kv) for tokens in contexts},
        formats={name: kv_bytes(spec, max(contexts), name) for name in KV_FORMATS},
        not_counted=spec.not_counted,
        unread=spec.unread,
    )


def layer_rows(spec: ModelSpec, kv: str = "bf16") -> tuple[LayerRow, ...]:
    """Return one row for layers that are alike, in the order in which they first appear."""
    places: dict[Layer, list[int]] = {}
    for index, layer in enumerate(spec.layers):
        places.setdefault(layer, []).append(index)
    return tuple(
        LayerRow(
            layers=_ranges(indices),
            num_layers=len(indices),
            kind=layer.kind,
            attention=" + ".join(_mixer_words(mixer) for mixer in layer.mixers),
            mlp=" + ".join(_mlp_words(mlp) for mlp in layer.mlps),
            parameters=count(layer.tensors(spec.hidden_size)),
            token_bytes=layer_token_bytes(layer, kv_format(kv), 1),
            max_held_tokens=_max_held_tokens(layer),
            state_bytes=layer_state_bytes(spec, layer, kv, None),
        )
        for layer, indices in places.items()
    )


def weight_rows(spec: ModelSpec) -> dict[str, int]:
    """Return the bytes of the weights as they were published and in every format."""
    published = {"published": weight_bytes(spec)} if spec.quantisation or spec.dtype else {}
    return published | {name: weight_bytes(spec, name) for name in WEIGHT_FORMATS}


def kv_line(piece: KVPiece) -> str:
    """Return a piece as a formula.

    Examples
    --------
    >>> kv_line(KVPiece(from_tokens=4096, constant_bytes=704643072, token_bytes=172032))
    'from 4,096 tokens: 704,643,072 + 172,032 x tokens'
    """
    where = f"from {piece.from_tokens:,} tokens: " if piece.from_tokens else ""
    return f"{where}{piece.constant_bytes:,} + {piece.token_bytes:,} x tokens"


def _max_held_tokens(layer: Layer) -> int | None:
    limits = [mixer.max_held_tokens for mixer in layer.mixers if isinstance(mixer, Attention | Latent)]
    return limits[0] if limits else None


def _mixer_words(mixer: Mixer) -> str:
    if isinstance(mixer, State):
        return mixer.name
    if isinstance(mixer, Latent):
        chosen = f", reads {mixer.num_chosen_tokens:,} tokens" if mixer.num_chosen_tokens else ""
        return f"{mixer.num_heads} heads, latent {mixer.kv_rank} + {mixer.rope_dim}{chosen}"
    window = f", {mixer.kind} {mixer.max_held_tokens:,} tokens" if mixer.max_held_tokens else ""
    reuse = ", keys of an earlier layer" if mixer.reuses_keys else ""
    return f"{mixer.num_heads} heads, {mixer.num_kv_heads} KV heads of {mixer.head_dim}{window}{reuse}"


def _mlp_words(mlp: Mlp | Experts) -> str:
    if isinstance(mlp, Experts):
        shared = f", shared {mlp.shared.intermediate_size:,}" if mlp.shared else ""
        return f"{mlp.num_active} of {mlp.num_experts} experts of {mlp.expert.intermediate_size:,}{shared}"
    return f"{'gated' if mlp.is_gated else 'plain'} {mlp.intermediate_size:,}"


def _ranges(indices: list[int]) -> str:
    """Return whole numbers as ranges: 0-2, 5."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
