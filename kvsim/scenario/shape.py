"""`ModelShape`: the sizes of a model whose cache is simulated in pages, with the formats that it runs in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    model_serializer,
    model_validator,
)

from kvsim.errors import CapacityError
from kvsim.scenario.models.formats import KV_FORMATS, WEIGHT_FORMATS, kv_format
from kvsim.scenario.models.memory import activation_bytes, weight_bytes
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.shape_spec import spec_of
from kvsim.scenario.toml import Strict, nearest

DType: TypeAlias = Literal["fp32", "bf16", "fp16"]

Quantisation: TypeAlias = Literal["8bit", "4bit"]
"""Weights of linear layers packed by bitsandbytes as they load; keys, values and activations stay in the dtype."""

BITSANDBYTES: dict[Quantisation, str] = {"8bit": "int8", "4bit": "nf4"}
"""The format of weights that each has."""

DTYPE_BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2}


def _named(formats: Mapping[str, object], what: str) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name not in formats:
            raise ValueError(f"unknown {what} {name!r}{nearest(name, formats)}")
        return name

    return check


WeightsName: TypeAlias = Annotated[str, AfterValidator(_named(WEIGHT_FORMATS, "format of weights"))]
KVName: TypeAlias = Annotated[str, AfterValidator(_named(KV_FORMATS, "format of the KV cache"))]


class ExpertSizes(Strict):
    """Gated experts of which each token visits some, in place of the MLP of all layers but the first few."""

    num_experts: PositiveInt
    experts_per_token: PositiveInt
    intermediate_size: PositiveInt
    """Of one expert."""
    shared_intermediate_size: NonNegativeInt = 0
    """Of an expert that every token visits besides."""
    num_dense_layers: NonNegativeInt = 0
    """First layers whose MLP is a plain one, of the shape's `intermediate_size`."""


class StateSizes(Strict):
    """Layers that hold a state of constant size in place of keys and values: delta nets, Mamba, convolutions."""

    num_layers: PositiveInt
    parameters: PositiveInt
    """Of the linear layers that stand in place of attention in one layer."""
    convolution_numbers: NonNegativeInt
    """Numbers of the inputs that one layer's convolution holds, the newest among them (transformers), in `dtype`."""
    recurrent_numbers: NonNegativeInt
    """Numbers of one layer's recurrent state, in fp32, as transformers computes it."""
    live_numbers: PositiveInt
    """Numbers of one token alive at once."""


class ModelShape(Strict):
    """The sizes of a decoder-only transformer whose layers all attend to the whole context and have the same heads.

    Llama-like (gated MLP), or GPT-2-like where positions are learned. `spec` counts its weights and activations.
    """

    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    intermediate_size: PositiveInt
    """Of the MLP; where every layer has experts, of one of them."""
    vocab_size: PositiveInt
    tied_embeddings: bool
    dtype: DType
    learned_positions: PositiveInt | None = None
    """Positions with a learned embedding (GPT-2): the MLP is then plain, and projections and norms have biases."""
    attention_biases: Literal["qkv", "qkvo"] | None = None
    """Projections of a Llama-like attention that have biases: ``qkv`` in Qwen 2 and 2.5."""
    window_tokens: PositiveInt | None = None
    """Tokens that layers with a sliding window attend to at most."""
    window_layers: NonNegativeInt = 0
    """Layers that hold their last `window_tokens` tokens on the device and have no pages (Gemma, gpt-oss).

    Where every layer has a window, each has pages up to it, and longer contexts are refused (`check_context`)."""
    plain_mlp: bool = False
    """Two projections without a gate, as where positions are learned."""
    experts: ExpertSizes | None = None
    unlisted_parameters: int = Field(default=0, gt=-(10**9), lt=10**9)
    """Parameters beyond those that the sizes imply, as norms of queries and keys; below zero where there are fewer."""
    weights: WeightsName | None = None
    """Format of the weights of linear layers where that is not `dtype`."""
    kv: KVName | None = None
    """Format of the KV cache where that is not `dtype`."""
    attention_gate: bool = False
    """A projection of the attention's input, as wide as its queries, is a gate on its output (Qwen3-Next)."""
    states: StateSizes | None = None
    """Layers beside those with pages that hold a state on the device (Qwen3-Next, LFM2, Granite 4)."""

    @model_validator(mode="after")
    def _windows_beside_pages(self) -> ModelShape:
        if self.window_layers and self.window_tokens is None:
            raise ValueError("window_layers: without window_tokens; it says how many tokens they hold")
        if self.window_layers >= self.num_layers:
            raise ValueError(
                f"window_layers: {self.window_layers} of num_layers = {self.num_layers}; leave one with pages, or give "
                "window_tokens alone where every layer has a window"
            )
        if self.paged_layers < 1:
            raise ValueError(
                f"states.num_layers: {self.state_layers} of num_layers = {self.num_layers}; leave one with pages"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, dump: Callable[[ModelShape], dict[str, Any]]) -> dict[str, Any]:
        """Leave out the newest fields where they say nothing: digests of older scenarios stay what they were."""
        fields = dump(self)
        return {name: value for name, value in fields.items() if value or name not in _YOUNGER}

    def in_formats(
        self, *, dtype: DType | None = None, weights: str | None = None, kv: str | None = None
    ) -> ModelShape:
        """Return the same model in other formats; None leaves one as it is.

        Examples
        --------
        >>> from kvsim.scenario.shapes import SHAPES
        >>> SHAPES["llama-3-8b"].in_formats(weights="int4", kv="bf16").model_dump(include={"weights", "kv"})
        {'weights': 'int4'}
        """
        own = dtype or self.dtype
        formats = {"weights": weights or self.weights, "kv": kv or self.kv}
        chosen = {name: None if form == own else form for name, form in formats.items()}
        return self.model_copy(update={"dtype": own, **chosen})

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one number of activations, and of weights and KV cache that have no format of their own."""
        return DTYPE_BYTES[self.dtype]

    @property
    def is_gated(self) -> bool:
        """Whether the MLP has a gate."""
        return not self.plain_mlp and self.learned_positions is None

    @property
    def paged_layers(self) -> int:
        """Layers whose keys and values are in pages: those that attend to the whole context."""
        return self.num_layers - self.window_layers - self.state_layers

    @property
    def state_layers(self) -> int:
        """Layers that hold a state and have no pages."""
        return self.states.num_layers if self.states else 0

    def window_bytes(self, context_tokens: int) -> int:
        """Return the device bytes of one sequence's keys and values in the layers that hold a window."""
        held = min(context_tokens, self.window_tokens or 0)
        return self.window_layers * self.page_bytes(1) * held

    @property
    def state_bytes(self) -> int:
        """Device bytes of one sequence's states: convolutions in the model's dtype, recurrent states in fp32."""
        if self.states is None:
            return 0
        one = self.states.convolution_numbers * self.dtype_bytes + self.states.recurrent_numbers * DTYPE_BYTES["fp32"]
        return self.states.num_layers * one

    def unpaged_bytes(self, context_tokens: int) -> int:
        """Return the device bytes of one sequence in the layers without pages: windows and states."""
        return self.window_bytes(context_tokens) + self.state_bytes

    @property
    def spec(self) -> ModelSpec:
        """The same model as its layers and tensors."""
        return spec_of(self)

    def page_bytes(self, page_tokens: int) -> int:
        """Return the bytes of K and V of `page_tokens` tokens of one layer of one sequence."""
        vectors = 2 * self.num_kv_heads
        return kv_format(self.kv or self.dtype).token_bytes(vectors * self.head_dim, vectors) * page_tokens

    def summary_bytes(self, num_pages: int) -> int:
        """Return the device bytes of the element-wise minimum and maximum of the keys of `num_pages` pages (Quest)."""
        return 2 * self.num_kv_heads * self.head_dim * self.dtype_bytes * num_pages

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model: embeddings, attention, MLP, norms, LM head."""
        return self.spec.num_parameters

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights in their format."""
        return weight_bytes(self.spec, self.weights or self.dtype)

    def packed_weights_bytes(self, quantisation: Quantisation | None) -> int:
        """Return the bytes of the weights with linear layers packed; embeddings, norms and head are not."""
        return weight_bytes(self.spec, BITSANDBYTES[quantisation]) if quantisation else self.weights_bytes

    def activation_bytes(self, step_tokens: int, num_logit_rows: int) -> int:
        """Return the bytes of activations alive at once in a step, and its logits in float32.

        An estimate and no bound: transformers holds the embeddings besides, an engine that fuses the MLP holds less.
        See `kvsim.scenario.models.memory.activation_bytes`.
        """
        return activation_bytes(self.spec, step_tokens, num_logit_rows, number_bytes=self.dtype_bytes)


_YOUNGER = tuple(ModelShape.model_fields)[list(ModelShape.model_fields).index("attention_biases") :]


def check_keys(shape: ModelShape, where: str) -> None:
    """Refuse a model of which some layers hold a state, for what simulates keys and values of all layers.

    Raises
    ------
    CapacityError
        Naming the layers.
    """
    if shape.states:
        raise CapacityError(
            f"{where}: {shape.state_layers} layers of the model hold a state in place of keys and values, which kvsim "
            "does not simulate here: take a model with full attention in all layers"
        )


def check_context(shape: ModelShape, context_tokens: int, where: str, *, holds_windows: bool = False) -> None:
    """Refuse a context that the model has no positions for, or of which some layers would not keep all tokens.

    Parameters
    ----------
    holds_windows
        Whether layers that hold a window or a state are simulated as such, beside others that have pages.

    Raises
    ------
    CapacityError
        Naming the feature and the longest context.
    """
    if shape.learned_positions is not None and context_tokens > shape.learned_positions:
        raise CapacityError(
            f"{where}: {context_tokens:,} tokens of context; the model has learned embeddings for "
            f"{shape.learned_positions:,} positions (learned_positions): take a context of at most so many"
        )
    if not holds_windows:
        check_keys(shape, where)
    if holds_windows and shape.window_layers:
        return
    if shape.window_tokens is not None and context_tokens > shape.window_tokens:
        raise CapacityError(
            f"{where}: {context_tokens:,} tokens of context; layers of the model attend to a sliding window of "
            f"{shape.window_tokens:,} tokens (window_tokens), which kvsim does not simulate: take a context of at most "
            "so many, or a model with full attention in all layers"
        )
