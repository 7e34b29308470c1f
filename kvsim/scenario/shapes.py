"""Model shapes: what kvsim must know of a transformer to count its bytes, and the well-known ones by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, PositiveInt, model_serializer

from kvsim.errors import CapacityError

DType: TypeAlias = Literal["fp32", "bf16", "fp16"]

Quantisation: TypeAlias = Literal["8bit", "4bit"]
"""Weights of linear layers packed by bitsandbytes; keys, values and activations stay in the model's dtype."""

PACKED_BYTES: dict[Quantisation, float] = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}
"""Bytes of one packed weight: in 4 bits each block of 64 has a float32 scale; in 8 bits an output row has, left out."""

DTYPE_BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2}


class ModelShape(BaseModel):
    """The sizes of a decoder-only transformer: Llama-like (gated MLP), or GPT-2-like where positions are learned."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    intermediate_size: PositiveInt
    vocab_size: PositiveInt
    tied_embeddings: bool
    dtype: DType
    learned_positions: PositiveInt | None = None
    """Positions with a learned embedding (GPT-2): the MLP is then plain, and projections and norms have biases."""
    attention_biases: Literal["qkv", "qkvo"] | None = None
    """Projections of a Llama-like attention that have biases: ``qkv`` in Qwen 2 and 2.5."""
    window_tokens: PositiveInt | None = None
    """Tokens that every second layer attends to at most (Gemma 2); longer contexts are refused (`check_context`)."""

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, dump: Callable[[ModelShape], dict[str, Any]]) -> dict[str, Any]:
        """Leave out the newest fields where they are absent: digests of older scenarios stay what they were."""
        fields = dump(self)
        absent = [name for name in ("attention_biases", "window_tokens") if fields.get(name) is None]
        return {name: value for name, value in fields.items() if name not in absent}

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one number of the KV cache and of the weights."""
        return DTYPE_BYTES[self.dtype]

    def page_bytes(self, page_tokens: int) -> int:
        """Return the bytes of K and V of `page_tokens` tokens of one layer of one sequence."""
        return 2 * self.num_kv_heads * self.head_dim * self.dtype_bytes * page_tokens

    def summary_bytes(self, num_pages: int) -> int:
        """Return the device bytes of the element-wise minimum and maximum of the keys of `num_pages` pages (Quest)."""
        return 2 * self.num_kv_heads * self.head_dim * self.dtype_bytes * num_pages

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model: embeddings, attention, MLP, norms, LM head."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        if self.learned_positions is not None:
            attention = 4 * self.hidden_size * (self.hidden_size + 1)
            mlp = 2 * self.hidden_size * self.intermediate_size + self.hidden_size + self.intermediate_size
            norms = (4 * self.num_layers + 2) * self.hidden_size
            return self.num_layers * (attention + mlp) + norms + embeddings + self.learned_positions * self.hidden_size
        query = self.num_heads * self.head_dim
        kv = self.num_kv_heads * self.head_dim
        layer = (
            self.hidden_size * (2 * query + 2 * kv)
            + 3 * self.hidden_size * self.intermediate_size
            + 2 * self.hidden_size
        )
        if self.attention_biases is not None:
            layer += query + 2 * kv + (self.hidden_size if self.attention_biases == "qkvo" else 0)
        return self.num_layers * layer + embeddings + self.hidden_size

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights in `dtype`."""
        return self.num_parameters * self.dtype_bytes

    def packed_weights_bytes(self, quantisation: Quantisation | None) -> int:
        """Return the bytes of the weights with the layers' projections packed; embeddings, norms and head are not."""
        if quantisation is None:
            return self.weights_bytes
        return int(
            (self.num_parameters - self._num_packed) * self.dtype_bytes + self._num_packed * PACKED_BYTES[quantisation]
        )

    @property
    def _num_packed(self) -> int:
        """Weights of the projections of attention and MLP, biases left out."""
        query, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        halves = 3 if self.learned_positions is None else 2
        return self.num_layers * self.hidden_size * (2 * query + 2 * kv + halves * self.intermediate_size)

    def activation_bytes(self, step_tokens: int, num_logit_rows: int) -> int:
        """Return the bytes of activations alive at once in a step, and its logits in float32.

        In the MLP: residual, normed input and output, each as wide as the model; gate, up and their product, each as
        wide as the MLP: ``3 * hidden_size + 3 * intermediate_size`` numbers a token. vLLM reports 2.07 GiB for
        Llama-3.1-8B and a step of 20,000 tokens (vllm issue 10517), this 2.06. transformers holds the embeddings
        besides; an engine that fuses the MLP holds less. It is an estimate and no bound.

        Parameters
        ----------
        step_tokens
            Tokens that one step computes, of all sequences.
        num_logit_rows
            Rows of logits: one for each sequence whose next token is chosen.
        """
        token_bytes = 3 * (self.hidden_size + self.intermediate_size) * self.dtype_bytes
        return step_tokens * token_bytes + num_logit_rows * self.vocab_size * 4


def check_context(shape: ModelShape, context_tokens: int, where: str) -> None:
    """Refuse a context that the model has no positions for, or of which some layers would drop the oldest tokens.

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
    if shape.window_tokens is not None and context_tokens > shape.window_tokens:
        raise CapacityError(
            f"{where}: {context_tokens:,} tokens of context; every second layer of the model attends to a sliding "
            f"window of {shape.window_tokens:,} tokens (window_tokens), which kvsim does not simulate: take a context "
            "of at most so many, or a model with full attention in all layers"
        )


def _shape(
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    intermediate: int,
    vocab: int,
    *,
    tied: bool,
    biases: Literal["qkv"] | None = None,
    window_tokens: int | None = None,
) -> ModelShape:
    return ModelShape(
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        vocab_size=vocab,
        tied_embeddings=tied,
        dtype="bf16",
        attention_biases=biases,
        window_tokens=window_tokens,
    )


SHAPES: dict[str, ModelShape] = {
    "smollm2-135m": _shape(30, 576, 9, 3, 64, 1536, 49_152, tied=True),
    "llama-3.2-1b": _shape(16, 2048, 32, 8, 64, 8192, 128_256, tied=True),
    "llama-3.2-3b": _shape(28, 3072, 24, 8, 128, 8192, 128_256, tied=True),
    "llama-3-8b": _shape(32, 4096, 32, 8, 128, 14_336, 128_256, tied=False),
    "llama-3-70b": _shape(80, 8192, 64, 8, 128, 28_672, 128_256, tied=False),
    "qwen2.5-7b": _shape(28, 3584, 28, 4, 128, 18_944, 152_064, tied=False, biases="qkv"),
    "mistral-7b": _shape(32, 4096, 32, 8, 128, 14_336, 32_768, tied=False),
    "gemma-2-9b": _shape(42, 3584, 16, 8, 256, 14_336, 256_000, tied=True, window_tokens=4096),
}
"""Shapes by the name that a scenario and `kvsim calibrate --shape` use; sizes from published config.json."""
