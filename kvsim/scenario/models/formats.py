"""Formats of weights and of the KV cache: bits of a number, scales, and what stays unpacked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from kvsim.errors import ScenarioError
from kvsim.scenario.models.tensors import Part, Tensor
from kvsim.scenario.toml import nearest

PACKED_PARTS: frozenset[Part] = frozenset({"attention", "state", "mlp", "experts", "shared experts"})
"""Parts whose linear layers are packed; embeddings, head, router, norms, biases and convolutions are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How the matrices of linear layers are stored: `bits` a number, and `block_bytes` for each block of them.

    A block is `block_columns` inputs of `block_rows` outputs that share a scale (and a zero point); None is all of
    them. A part of a block takes the whole block's bytes.
    """

    name: str
    bits: int
    block_rows: int | None = 1
    block_columns: int | None = None
    block_bytes: float = 0.0
    is_flat: bool = False
    """Blocks run on from one output to the next."""
    column_bytes: int = 0
    """Bytes for each input besides, as an order of the inputs takes."""
    packs: frozenset[Part] = field(default=PACKED_PARTS)
    packs_tables: WeightFormat | None = None
    """The format of the embedding table and the head; None leaves them unpacked."""
    indivisible: WeightFormat | None = None
    """The format of a matrix whose inputs are no multiple of `block_columns`."""

    @property
    def number_bytes(self) -> float:
        """Bytes of one number with its share of a block's, where blocks are no longer than an output."""
        rows, columns = self.block_rows, self.block_columns
        return self.bits / 8 + (self.block_bytes / (rows * columns) if rows and columns else 0.0)

    def tensor_bytes(self, tensor: Tensor) -> int:
        """Return the bytes of all copies of a matrix in this format."""
        if self.indivisible and self.block_columns and tensor.columns % self.block_columns:
            return self.indivisible.tensor_bytes(tensor)
        numbers = tensor.rows * tensor.columns
        num_blocks = math.ceil(tensor.rows / (self.block_rows or tensor.rows))
        num_blocks *= math.ceil(tensor.columns / (self.block_columns or tensor.columns))
        if self.is_flat and self.block_columns:
            num_blocks = math.ceil(numbers / self.block_columns)
        packed = math.ceil(numbers * self.bits / 8)
        return tensor.copies * (packed + math.ceil(num_blocks * self.block_bytes) + self.column_bytes * tensor.columns)


def grouped(name: str, bits: int, group: int | None, *, zero_bits: int = 0, order: bool = False) -> WeightFormat:
    """Return a format of integers with a 16-bit scale, and maybe a zero point, for each group of inputs of an output.

    Parameters
    ----------
    group
        Inputs that share a scale; None is a whole row.
    order
        Which group an input is of is stored too, in 4 bytes an input (GPTQ's ``g_idx``).
    """
    size_bytes = 2 + zero_bits / 8
    return WeightFormat(
        name=name, bits=bits, block_columns=group, block_bytes=size_bytes, column_bytes=4 if order else 0
    )


def _gguf(name: str, bits: int, block: int, rest_bytes: int, indivisible: WeightFormat | None = None) -> WeightFormat:
    """Return a type of llama.cpp: `bits` a number and `rest_bytes` for each block of inputs (ggml-common.h)."""
    return WeightFormat(name=name, bits=bits, block_columns=block, block_bytes=rest_bytes, indivisible=indivisible)


_Q8_0 = _gguf("q8_0", 8, 32, 2)
_Q6_K = _gguf("q6_k", 6, 256, 18, indivisible=_Q8_0)


def _file(form: WeightFormat, tables: WeightFormat = _Q6_K) -> WeightFormat:
    """Return the type as `llama-quantize` writes whole files of it: embeddings and head are packed too."""
    return replace(form, packs_tables=tables)


WEIGHT_FORMATS: dict[str, WeightFormat] = {
    "fp32": WeightFormat(name="fp32", bits=32),
    "bf16": WeightFormat(name="bf16", bits=16),
    "fp16": WeightFormat(name="fp16", bits=16),
    "fp8": WeightFormat(name="fp8", bits=8, block_rows=None, block_bytes=4),
    "fp8-block": WeightFormat(name="fp8-block", bits=8, block_rows=128, block_columns=128, block_bytes=4),
    "int8": WeightFormat(name="int8", bits=8, block_bytes=4),
    "int4": grouped("int4", 4, 128, zero_bits=4),
    "gptq-int4": grouped("gptq-int4", 4, 128, zero_bits=4, order=True),
    "nf4": WeightFormat(name="nf4", bits=4, block_columns=64, block_bytes=4, is_flat=True),
    "mxfp4": WeightFormat(name="mxfp4", bits=4, block_columns=32, block_bytes=1),
    "nvfp4": WeightFormat(name="nvfp4", bits=4, block_columns=16, block_bytes=1),
    "q4_0": _file(_gguf("q4_0", 4, 32, 2)),
    "q4_1": _file(_gguf("q4_1", 4, 32, 4)),
    "q4_k": _file(_gguf("q4_k", 4, 256, 16, indivisible=_gguf("q5_0", 5, 32, 2))),
    "q5_k": _file(_gguf("q5_k", 5, 256, 16, indivisible=_gguf("q5_1", 5, 32, 4))),
    "q6_k": _file(_Q6_K),
    "q8_0": _file(_Q8_0, tables=_Q8_0),
}
"""Formats of weights by name.

``int8``: bitsandbytes, a float32 scale for each output. ``int4``: as AWQ stores it, groups of 128 with a 16-bit scale
and a 4-bit zero point; ``gptq-int4``: the same with GPTQ's order of inputs. ``nf4``: bitsandbytes, a float32 scale for
64 numbers. ``fp8``: one scale a matrix; ``fp8-block``: one for 128 x 128 (DeepSeek-V3). ``mxfp4``, ``nvfp4``: an 8-bit
scale for 32 and for 16 numbers. ``q4_0`` ... ``q8_0``: llama.cpp, whole files of one type, tables in q6_k; its mixtures
(Q4_K_M) pack some matrices in 6 bits and are up to 5% larger than ``q4_k``.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """How a checkpoint packs its weights: a format, and the parts or layers that it leaves alone."""

    form: WeightFormat
    unpacked: frozenset[Part] = frozenset()
    unpacked_layers: tuple[tuple[int, Part], ...] = ()
    """Parts of single layers that are left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVFormat:
    """How keys and values are stored: `bits` a number, and `vector_bytes` for each head's key or value of a token."""

    name: str
    bits: int
    vector_bytes: int = 0

    def token_bytes(self, numbers: int, vectors: int) -> int:
        """Return the bytes of one token of one layer."""
        return math.ceil(numbers * self.bits / 8) + vectors * self.vector_bytes


KV_FORMATS: dict[str, KVFormat] = {
    "fp32": KVFormat(name="fp32", bits=32),
    "bf16": KVFormat(name="bf16", bits=16),
    "fp16": KVFormat(name="fp16", bits=16),
    "fp8": KVFormat(name="fp8", bits=8),
    "int8": KVFormat(name="int8", bits=8, vector_bytes=4),
    "int4": KVFormat(name="int4", bits=4, vector_bytes=4),
}
"""Formats of the KV cache by name.

``fp8``: one scale a layer (vLLM), not counted. ``int8`` and ``int4``: a 16-bit scale and a 16-bit zero point for each
head's key and value of each token, as LMDeploy stores them.
"""


def weight_format(name: str) -> WeightFormat:
    """Return a format of weights by its name.

    Raises
    ------
    ScenarioError
        If there is none.
    """
    return _named(WEIGHT_FORMATS, name, "format of weights")


def kv_format(name: str) -> KVFormat:
    """Return a format of the KV cache by its name.

    Raises
    ------
    ScenarioError
        If there is none.
    """
    return _named(KV_FORMATS, name, "format of the KV cache")


_T = TypeVar("_T")


def _named(formats: Mapping[str, _T], name: str, what: str) -> _T:
    if name not in formats:
        raise ScenarioError(f"unknown {what} {name!r}{nearest(name, formats)}")
    return formats[name]
