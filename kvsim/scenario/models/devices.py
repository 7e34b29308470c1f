"""Bytes that each of several devices holds of a model whose layers lie on them in a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kvsim.scenario.models.memory import kv_bytes, packing_at, packing_of, tensor_bytes
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.tensors import Tensor


def device_weight_bytes(spec: ModelSpec, weights: str | None, layers: Sequence[range]) -> tuple[int, ...]:
    """Return the bytes of the weights on each device, which has some `layers`.

    The first has the embeddings too, the last the head. A head that reads the embedding table has a table of its own
    there, as pipelines hold it.

    Parameters
    ----------
    weights
        As of `weight_bytes`.
    """
    packing, plain = packing_of(spec, weights)

    def size(tensors: Iterable[Tensor], layer: int | None = None) -> int:
        own = packing if layer is None else packing_at(packing, layer)
        return sum(tensor_bytes(tensor, own, plain) for tensor in tensors)

    in_layers = [sum(size(spec.layers[layer].tensors(spec.hidden_size), layer) for layer in own) for own in layers]
    in_layers[0] += size((spec.table, *spec.outer))
    in_layers[-1] += size(spec.head)
    if spec.tied_embeddings and len(layers) > 1:
        in_layers[-1] += size((spec.table,))
    return tuple(in_layers)


def device_kv_bytes(spec: ModelSpec, num_tokens: int, kv: str, layers: Sequence[range]) -> tuple[int, ...]:
    """Return the bytes of the cache of one sequence of `num_tokens` on each device."""
    parts = (replace(spec, layers=spec.layers[own.start : own.stop]) for own in layers)
    return tuple(kv_bytes(part, num_tokens, kv) for part in parts)
