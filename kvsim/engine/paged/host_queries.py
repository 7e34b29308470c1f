"""Speculation on the host in one compiled call: the next layer's query projection in 8 bits, and its pages' boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kvsim.engine.model import queries
from kvsim.engine.model.families import Queries, Rotary, attention_modules, decoder_layers, family_of
from kvsim.engine.model.weighting import Weighting
from kvsim.kernels.scores import speculated_query, speculated_scores

_TOLERANCE_FRAC = 0.05
"""By how much a query may be off, in the norm, before the model is taken to make its queries in another way."""


class HostQueries:
    """The queries of layers on the host, of models that make them as Llama does.

    A prediction needs no exact query. So the projection is held in 8 bits with a scale a row and the norm's weights in
    it, half the bytes of a model in bf16 to read, and twenty small operations of torch become one call.
    """

    def __init__(self, layers: list[tuple[Any, Any]], epsilon: float) -> None:
        self._layers = layers  # weights in int8, [rows, hidden_size], and the scale of each row
        self._epsilon = epsilon
        self._rotated_by: Tensor | None = None
        self._rotary: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> HostQueries:
        """Return the same: it holds parts of the model, which copies of a run share."""
        del memo
        return self

    def of(self, layer: int, hidden: Tensor, rotary: Rotary | None) -> Tensor:
        """Return the queries of what enters `layer`, ``[n, 1, hidden_size]``: ``[n, num_heads, 1, head_dim]``."""
        query: NDArray[np.float32] = speculated_query(*self._arguments(layer, hidden, rotary))
        return torch.from_numpy(query).unsqueeze(2)

    def scores(
        self,
        layer: int,
        hidden: Tensor,
        rotary: Rotary | None,
        bounds: NDArray[np.float32],
        num_pages: int,
        weighting: Weighting,
    ) -> NDArray[np.float32]:
        """Return what `kvsim.kernels.scores.box_scores` gives those queries of pages, ``[n, num_pages]``."""
        scores = np.empty((len(hidden), num_pages), dtype=np.float32)
        arguments = self._arguments(layer, hidden, rotary)
        speculated_scores(*arguments, bounds, weighting.scaling, weighting.softcap or 0.0, scores)
        return scores

    def _arguments(self, layer: int, hidden: Tensor, rotary: Rotary | None) -> tuple[Any, ...]:
        assert rotary is not None  # `host_queries` takes no model without
        if rotary[0] is not self._rotated_by:
            self._rotated_by = rotary[0]
            both = torch.stack([part[:, 0].detach().float() for part in rotary])
            self._rotary = both.expand(2, len(hidden), -1).contiguous().numpy()
        entering = hidden.detach().float().contiguous().numpy()[:, 0]
        return entering, *self._layers[layer], self._epsilon, self._rotary


def host_queries(model: Any) -> HostQueries | None:
    """Return the queries of a model that lies on the host; None where it makes them in another way than Llama."""
    if model.device.type != "cpu" or family_of(model).query is not queries.plain:
        return None
    layers: list[tuple[Any, Any]] = []
    epsilons: set[float] = set()
    for layer, attention in zip(decoder_layers(model), attention_modules(model), strict=True):
        norm, projection = getattr(layer, "input_layernorm", None), getattr(attention, "q_proj", None)
        epsilon = getattr(norm, "variance_epsilon", None)
        if type(projection) is not nn.Linear or projection.bias is not None or norm is None or epsilon is None:
            return None
        folded = projection.weight.detach().float() * norm.weight.detach().float()
        scales = folded.abs().amax(dim=1).clamp(min=1e-12) / 127
        layers.append(((folded / scales[:, None]).round().to(torch.int8).numpy(), scales.numpy()))
        epsilons.add(float(epsilon))
    if len(epsilons) != 1:
        return None
    made = HostQueries(layers, epsilons.pop())
    return made if _are_alike(made, model) else None


def _are_alike(made: HostQueries, model: Any) -> bool:
    """Return whether queries are those of the model itself, for a hidden state and a position made up."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn((1, 1, model.config.hidden_size), generator=generator).to(model.dtype)
    exact = Queries(model)
    attentions: list[Any] = attention_modules(model)
    for layer in {0, len(attentions) - 1}:
        angles = torch.rand((1, 1, attentions[layer].head_dim // 2), generator=generator).repeat(1, 1, 2)
        rotary = angles.cos().to(model.dtype), angles.sin().to(model.dtype)
        with torch.no_grad():
            expected = exact.of(layer, hidden, rotary).float()
        query = made.of(layer, hidden, rotary)
        if query.shape != expected.shape or (query - expected).norm() > _TOLERANCE_FRAC * expected.norm():
            return False
    return True
