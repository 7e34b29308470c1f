"""`ModelSpec`: one decoder-only language model as its layers, and its parameters counted exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from kvsim.scenario.models.blocks import Experts, Layer
from kvsim.scenario.models.formats import Quantisation
from kvsim.scenario.models.tensors import Part, Tensor, vector


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The sizes of a decoder-only language model: what its bytes and operations follow from."""

    name: str
    model_type: str
    """The family, as `config.json` names it."""
    dtype: str | None
    """Format of the published weights where they are not packed: ``fp32``, ``bf16`` or ``fp16``; None if unknown."""
    quantisation: Quantisation | None = None
    """How the published weights are packed, if they are."""
    state_dtype: str | None = None
    """Format of recurrent states that the configuration asks for."""
    hidden_size: int
    vocab_size: int
    tied_embeddings: bool
    """The head reads the embedding table and has no weights of its own."""
    has_head_bias: bool = False
    layers: tuple[Layer, ...]
    max_positions: int | None
    """Tokens that the model was made for; None where nothing bounds them."""
    has_position_limit: bool = False
    """Positions are learned: a token behind `max_positions` cannot be computed at all."""
    embedding_size: int | None = None
    """Width of the embedding table where projections lead from it to the hidden size."""
    outer: tuple[Tensor, ...] = ()
    """Weights outside the layers, apart from embeddings and head: final norm, learned positions, projections."""
    not_counted: tuple[str, ...] = ()
    """Parts of the published model that are left out, such as a vision tower."""
    unread: tuple[str, ...] = ()
    """Keys of the configuration that kvsim does not know."""

    @property
    def table(self) -> Tensor:
        """The embedding table."""
        return Tensor(part="embeddings", rows=self.vocab_size, columns=self.embedding_size or self.hidden_size)

    @property
    def head(self) -> tuple[Tensor, ...]:
        """The weights of the head that are not the embedding table's."""
        matrix = Tensor(part="head", rows=self.vocab_size, columns=self.table.columns)
        return (*(() if self.tied_embeddings else (matrix,)), *vector("head", self.vocab_size * self.has_head_bias))

    @property
    def most_positions(self) -> int | None:
        """The longest sequence that can be computed at all; None where nothing limits it."""
        return self.max_positions if self.has_position_limit else None

    def layer_counts(self) -> dict[Layer, int]:
        """Return how many layers are alike, in the order in which they first appear."""
        return dict(Counter(self.layers))

    def tensors(self) -> Iterator[tuple[Tensor, int]]:
        """Yield every weight and how many times the model has it."""
        for tensor in (self.table, *self.outer, *self.head):
            yield tensor, 1
        for layer, num_layers in self.layer_counts().items():
            for tensor in layer.tensors(self.hidden_size):
                yield tensor, num_layers

    def parameters_by_part(self) -> dict[Part, int]:
        """Return the parameters of each part that the model has."""
        parts: dict[Part, int] = {}
        for tensor, num_tensors in self.tensors():
            parts[tensor.part] = parts.get(tensor.part, 0) + tensor.numbers * num_tensors
        return parts

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model; a tied table counts once."""
        return sum(tensor.numbers * num_tensors for tensor, num_tensors in self.tensors())

    @property
    def num_active_parameters(self) -> int:
        """Parameters that one token uses: all but those of the experts that it is not sent to."""
        return self.num_parameters - sum(_num_idle(layer, self.hidden_size) for layer in self.layers)

    @property
    def mixture(self) -> Experts | None:
        """The first mixture of experts; None in a dense model."""
        mlps = (mlp for layer in self.layers for mlp in layer.mlps)
        return next((mlp for mlp in mlps if isinstance(mlp, Experts)), None)


def _num_idle(layer: Layer, hidden_size: int) -> int:
    idle = 0
    for mlp in layer.mlps:
        if isinstance(mlp, Experts):
            numbers = sum(tensor.numbers for tensor in mlp.tensors(hidden_size) if tensor.part == "experts")
            idle += numbers // mlp.num_experts * (mlp.num_experts - mlp.num_active)
    return idle
