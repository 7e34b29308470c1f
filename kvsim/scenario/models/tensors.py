"""The weights of a model as what they are for and how large they are: all that counting and packing need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Part: TypeAlias = Literal[
    "embeddings", "positions", "attention", "state", "mlp", "experts", "shared experts", "router", "norms", "head"
]
"""What a tensor is for. ``state``: linear attention and state spaces; ``experts``: those that a router chooses from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One weight: a matrix of `rows` outputs by `columns` inputs, or a vector of one column, in `copies`."""

    part: Part
    rows: int
    columns: int = 1
    copies: int = 1
    is_linear: bool = False
    """True for the matrix of a linear layer: what weight formats pack."""

    @property
    def numbers(self) -> int:
        """Numbers in all copies."""
        return self.rows * self.columns * self.copies


def linear(part: Part, outputs: int, inputs: int, *, has_bias: bool = False, copies: int = 1) -> tuple[Tensor, ...]:
    """Return the matrix of a linear layer, and its bias if it has one."""
    matrix = Tensor(part=part, rows=outputs, columns=inputs, copies=copies, is_linear=True)
    return (matrix, Tensor(part=part, rows=outputs, copies=copies)) if has_bias else (matrix,)


def vector(part: Part, numbers: int, *, copies: int = 1) -> tuple[Tensor, ...]:
    """Return a tensor that no format packs (a norm, a bias, a convolution), or nothing for 0 numbers."""
    return (Tensor(part=part, rows=numbers, copies=copies),) if numbers else ()


def count(tensors: Iterable[Tensor]) -> int:
    """Return the numbers in all tensors."""
    return sum(tensor.numbers for tensor in tensors)
