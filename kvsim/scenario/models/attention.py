"""Attention as what its layers hold of a token: keys and values of heads, or one latent for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from kvsim.scenario.models.tensors import Tensor, linear, vector

LayerKind: TypeAlias = Literal["full", "sliding", "chunked", "shared", "latent", "state", "none"]
"""How a layer remembers: every token, the last of them, those of the current chunk, in an earlier layer's keys and
values, in one latent a token, in a state of constant size, or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Multi-head attention in which `num_kv_heads` heads have keys and values (all: MHA; one: MQA; between: GQA)."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    window_tokens: int | None = None
    """Only this many last tokens are attended to, and held."""
    chunk_tokens: int | None = None
    """Only tokens of the query's own chunk are attended to: at most this many are held."""
    reuses_keys: bool = False
    """Reads the keys and values of an earlier layer, and has no projections for its own."""
    values_are_keys: bool = False
    """One projection gives keys and values (they are still held apart: only keys are rotated)."""
    qkv_bias: bool = False
    out_bias: bool = False
    gate_numbers: int = 0
    """Outputs of a gate on the attention's own output."""
    norm_numbers: int = 0
    """Weights of the norms of queries and keys."""
    num_sinks: int = 0
    """Learned logits that take attention mass without a token."""

    @property
    def kind(self) -> LayerKind:
        """How the layer remembers."""
        if self.reuses_keys:
            return "shared"
        if self.window_tokens is not None:
            return "sliding"
        return "full" if self.chunk_tokens is None else "chunked"

    @property
    def max_held_tokens(self) -> int | None:
        """The most tokens that are attended to, and held; None for all."""
        return self.window_tokens if self.window_tokens is not None else self.chunk_tokens

    @property
    def held_numbers(self) -> int:
        """Numbers of one token's keys and values; 0 where they are an earlier layer's."""
        return 0 if self.reuses_keys else self.num_kv_heads * (self.head_dim + self.value_dim)

    @property
    def held_vectors(self) -> int:
        """Vectors of one token that a quantised cache scales each by itself: a key and a value of each head."""
        return 0 if self.reuses_keys else 2 * self.num_kv_heads

    @property
    def multiplies_per_key(self) -> int:
        """Multiplications of all heads for one attended token: its score, and its value into the sum."""
        return self.num_heads * (self.head_dim + self.value_dim)

    @property
    def live_numbers(self) -> int:
        """Numbers of one token alive at once: queries, keys and values, and the output of the attention."""
        queries, values = self.num_heads * self.head_dim, self.num_heads * self.value_dim
        return queries + self.gate_numbers + self.num_kv_heads * (self.head_dim + self.value_dim) + values

    def tensors(self, hidden_size: int) -> tuple[Tensor, ...]:
        """Return the weights."""
        queries = self.num_heads * self.head_dim
        keys, values = self.num_kv_heads * self.head_dim, self.num_kv_heads * self.value_dim
        own = () if self.reuses_keys else linear("attention", keys, hidden_size, has_bias=self.qkv_bias)
        if not self.reuses_keys and not self.values_are_keys:
            own += linear("attention", values, hidden_size, has_bias=self.qkv_bias)
        gate = linear("attention", self.gate_numbers, hidden_size, has_bias=self.qkv_bias) if self.gate_numbers else ()
        return (
            *linear("attention", queries, hidden_size, has_bias=self.qkv_bias),
            *own,
            *gate,
            *linear("attention", hidden_size, self.num_heads * self.value_dim, has_bias=self.out_bias),
            *vector("norms", self.norm_numbers),
            *vector("attention", self.num_sinks),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexer:
    """The part of sparse attention (DSA) that scores every past token with small keys of its own."""

    num_heads: int
    head_dim: int

    def tensors(self, hidden_size: int, query_rank: int) -> tuple[Tensor, ...]:
        """Return the weights: queries from the queries' latent, one key a token with a layer norm, weights of heads."""
        return (
            *linear("attention", self.num_heads * self.head_dim, query_rank),
            *linear("attention", self.head_dim, hidden_size),
            *vector("norms", 2 * self.head_dim),
            *linear("attention", self.num_heads, hidden_size),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2): of a token one latent and one rotated key are held, for all heads."""

    num_heads: int
    query_rank: int | None
    """Width of the queries' latent; None where queries come straight from the hidden state."""
    kv_rank: int
    rope_dim: int
    nope_dim: int
    value_dim: int
    has_bias: bool = False
    indexer: Indexer | None = None
    """None too where the tokens are those that an earlier layer's indexer chose."""
    num_chosen_tokens: int | None = None
    """The most tokens that are read in a step; all are held."""

    @property
    def kind(self) -> LayerKind:
        """How the layer remembers."""
        return "latent"

    @property
    def max_held_tokens(self) -> None:
        """Every token is held, even where few are read."""
        return

    @property
    def held_numbers(self) -> int:
        """Numbers of one token: its latent, its rotated key and the indexer's key."""
        return self.kv_rank + self.rope_dim + (self.indexer.head_dim if self.indexer else 0)

    @property
    def held_vectors(self) -> int:
        """Vectors of one token that a quantised cache scales each by itself."""
        return 1 + (self.indexer is not None)

    @property
    def multiplies_per_key(self) -> int:
        """Multiplications of all heads for one attended token, with the up-projections absorbed (as decoding does).

        Scores are products with latent and rotated key, sums are of latents; the absorbed projections multiply as
        often per query as the tensor ``kv_b`` has numbers, so that they are counted with the weights.
        """
        return self.num_heads * (2 * self.kv_rank + self.rope_dim)

    @property
    def live_numbers(self) -> int:
        """Numbers of one token alive at once in a prefill: queries, expanded keys and values, and the output."""
        key_dim = self.nope_dim + self.rope_dim
        return self.num_heads * (2 * key_dim + 2 * self.value_dim) + (self.query_rank or 0) + self.kv_rank

    def tensors(self, hidden_size: int) -> tuple[Tensor, ...]:
        """Return the weights."""
        queries = self.num_heads * (self.nope_dim + self.rope_dim)
        if self.query_rank is None:
            query = linear("attention", queries, hidden_size)
        else:
            down = linear("attention", self.query_rank, hidden_size, has_bias=self.has_bias)
            query = (*down, *vector("norms", self.query_rank), *linear("attention", queries, self.query_rank))
        return (
            *query,
            *linear("attention", self.kv_rank + self.rope_dim, hidden_size, has_bias=self.has_bias),
            *vector("norms", self.kv_rank),
            *linear("attention", self.num_heads * (self.nope_dim + self.value_dim), self.kv_rank),
            *linear("attention", hidden_size, self.num_heads * self.value_dim, has_bias=self.has_bias),
            *(self.indexer.tensors(hidden_size, self.query_rank or hidden_size) if self.indexer else ()),
        )
