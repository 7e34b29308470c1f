"""The kernels of a decode step and of a prefill: what each moves and computes, counted from the model's shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from kvsim.errors import ScenarioError
from kvsim.scenario.shapes import ModelShape

Weights: TypeAlias = Literal["bf16", "fp16", "fp8", "int8", "int4"]
"""Number format of the layers' weights; embeddings and the head keep the model's."""

WEIGHT_BYTES: dict[str, float] = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5 + 4 / 64}
"""Bytes of one weight; in 4 bits each block of 64 has a scale of 4 bytes, as in `PACKED_BYTES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One kernel: its kind in the coefficients, and its work."""

    kind: str
    moved_bytes: float
    flop: float = 0.0
    units: float = 0.0
    """Parts that are started apart."""
    number_format: str = "bf16"
    """Whose matrix rate it computes at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Formats:
    """The number formats of a run on one card."""

    weights: Weights
    activations: Literal["bf16", "fp16"]
    kv_bytes: int
    """Bytes of one number of the KV cache."""
    has_fp8: bool
    """Whether the card multiplies in fp8; else weights in fp8 are expanded first."""


def formats_of(shape: ModelShape, weights: Weights | None, kv: Literal["fp8"] | None, *, has_fp8: bool) -> Formats:
    """Return the formats of `shape` with its weights and its KV cache as asked for.

    Raises
    ------
    ScenarioError
        If the shape's dtype is none that an estimate can price.
    """
    if shape.dtype not in ("bf16", "fp16"):
        raise ScenarioError(
            f"model.dtype {shape.dtype!r}: an estimate prices bf16 and fp16, for no table of kernels has {shape.dtype}"
        )
    own: Literal["bf16", "fp16"] = "bf16" if shape.dtype == "bf16" else "fp16"
    return Formats(
        weights=weights or own, activations=own, kv_bytes=1 if kv == "fp8" else shape.dtype_bytes, has_fp8=has_fp8
    )


def product(rows: float, width: int, depth: int, formats: Formats, *, is_layer: bool = True) -> Kernel:
    """Return the product of activations [rows, depth] with weights [depth, width]."""
    weights = formats.weights if is_layer else formats.activations
    computes_fp8 = weights == "fp8" and formats.has_fp8
    activation_bytes = 1 if computes_fp8 else 2
    return Kernel(
        kind=_kind_of(weights, computes_fp8=computes_fp8),
        moved_bytes=width * depth * WEIGHT_BYTES[weights] + rows * (depth * activation_bytes + width * 2),
        flop=2.0 * rows * width * depth,
        number_format="fp8" if computes_fp8 else formats.activations,
    )


def _kind_of(weights: str, *, computes_fp8: bool) -> str:
    if weights in ("bf16", "fp16"):
        return "gemm_bf16"
    if weights == "fp8":
        return "gemm_fp8" if computes_fp8 else "gemm_int8"
    return f"gemm_{weights}"


def moving(numbers: float, shape: ModelShape) -> Kernel:
    """Return a kernel that moves `numbers` numbers of the model's dtype and computes next to nothing."""
    return Kernel(kind="elementwise", moved_bytes=numbers * shape.dtype_bytes)


def decode_attention(attended_tokens: float, sequences: float, shape: ModelShape, formats: Formats) -> Kernel:
    """Return attention of one layer and one step over `attended_tokens` cached tokens of the batch together."""
    return Kernel(
        kind="decode_attention" if formats.kv_bytes == 2 else "decode_attention_fp8",
        units=sequences * shape.num_kv_heads,
        moved_bytes=2.0 * attended_tokens * shape.num_kv_heads * shape.head_dim * formats.kv_bytes,
    )


def prefill_attention(new_tokens: float, cached_tokens: float, shape: ModelShape, formats: Formats) -> Kernel:
    """Return causal attention of one layer of `new_tokens` after `cached_tokens`."""
    query, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    pairs = new_tokens * (cached_tokens + new_tokens / 2)
    return Kernel(
        kind="prefill_attention",
        moved_bytes=2.0 * new_tokens * 2 * query + 2.0 * (cached_tokens + new_tokens) * kv * formats.kv_bytes,
        flop=4.0 * pairs * query,
        number_format=formats.activations,
    )


def attention_input(rows: float, shape: ModelShape, formats: Formats) -> list[Kernel]:
    """Return norm, projection to query, key and value, rotary embedding and the append to the cache."""
    query, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    return [
        moving(4 * shape.hidden_size * rows, shape),
        product(rows, query + 2 * kv, shape.hidden_size, formats),
        moving(2 * (query + kv) * rows, shape),
        moving(4 * kv * rows, shape),
    ]


def attention_output(rows: float, shape: ModelShape, formats: Formats) -> list[Kernel]:
    """Return the projection back, norm and the MLP: gated with gate and up in one product, or plain (GPT-2)."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    halves = 2 if shape.learned_positions is None else 1
    return [
        product(rows, hidden, shape.num_heads * shape.head_dim, formats),
        moving(4 * hidden * rows, shape),
        product(rows, halves * inner, hidden, formats),
        moving((halves + 1) * inner * rows, shape),
        product(rows, hidden, inner, formats),
    ]


def head(rows: float, shape: ModelShape, formats: Formats) -> list[Kernel]:
    """Return the last norm, the LM head and greedy sampling."""
    return [
        moving(4 * shape.hidden_size * rows, shape),
        product(rows, shape.vocab_size, shape.hidden_size, formats, is_layer=False),
        moving(shape.vocab_size * rows, shape),
    ]


def embedding(rows: float, shape: ModelShape) -> Kernel:
    """Return the gather of one row a sequence."""
    return moving(2 * shape.hidden_size * rows, shape)


def speculation(rows: float, shape: ModelShape, formats: Formats) -> list[Kernel]:
    """Return the next layer's norm, query projection and rotary embedding; the scoring of its pages is apart."""
    query = shape.num_heads * shape.head_dim
    return [
        moving(4 * shape.hidden_size * rows, shape),
        product(rows, query, shape.hidden_size, formats),
        moving(2 * query * rows, shape),
    ]


def experts(
    rows: float, num_experts: float, experts_per_token: float, inner_size: float, hidden_size: float, formats: Formats
) -> Kernel:
    """Return the gated MLPs of one layer's routed experts over `rows` tokens that are routed independently.

    The weights of an expert are read once however many tokens it has, so few tokens read
    ``E (1 - (1 - k / E) ** rows)`` experts of E, and many tokens all.
    """
    distinct = num_experts * (1 - (1 - experts_per_token / num_experts) ** rows)
    routed = rows * experts_per_token
    computes_fp8 = formats.weights == "fp8" and formats.has_fp8
    return Kernel(
        kind=f"experts_{'bf16' if formats.weights == 'fp16' else formats.weights}",
        moved_bytes=distinct * 3 * hidden_size * inner_size * WEIGHT_BYTES[formats.weights]
        + routed * (2 * hidden_size + 3 * inner_size) * 2,
        flop=2.0 * routed * 3 * hidden_size * inner_size,
        number_format="fp8" if computes_fp8 else formats.activations,
    )
