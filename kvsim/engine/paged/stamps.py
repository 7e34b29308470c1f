"""Where a step's time goes: stamps of the host's clock at the boundaries of its parts, by public module hooks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from kvsim.engine.model.families import decoder_layers, final_norm

LAYER_PARTS = (
    "attention_input",
    "speculate",
    "select",
    "sync",
    "choose",
    "decide",
    "submit",
    "stall",
    "attention",
    "attention_output",
)
"""Parts of one layer in order, each from its stamp to the next one; `choose` is the selection's second half."""


class Stamps:
    """Nanoseconds of `perf_counter` at every boundary of every layer and step, in the order they were passed.

    `speculate` is empty where nothing is predicted. A step has one stamp at its start, ten a layer, one before the
    final norm and one at its end.
    """

    def __init__(self) -> None:
        self._stamps_ns: list[int] = []

    def mark(self) -> None:
        """Pass a boundary."""
        self._stamps_ns.append(time.perf_counter_ns())

    @property
    def origin_s(self) -> float:
        """The first stamp, on the clock of `time.perf_counter`."""
        return self._stamps_ns[0] * 1e-9

    def edges_s(self, num_layers: int) -> NDArray[np.float64]:
        """Return every stamp in seconds since the first, ``[num_steps, 3 + 10 * num_layers]``."""
        stamps = self._by_step(num_layers)
        edges_s: NDArray[np.float64] = (stamps - stamps[0, 0]) * 1e-9
        return edges_s

    def parts_s(self, num_layers: int) -> dict[str, NDArray[np.float64]]:
        """Return the seconds of each part: ``embed`` and ``head`` by step, the others ``[num_steps, num_layers]``."""
        return parts_of(np.diff(self._by_step(num_layers), axis=1) * 1e-9, num_layers)

    def _by_step(self, num_layers: int) -> NDArray[np.int64]:
        return np.array(self._stamps_ns, dtype=np.int64).reshape(-1, 3 + len(LAYER_PARTS) * num_layers)


def parts_of(spans_s: NDArray[np.float64], num_layers: int) -> dict[str, NDArray[np.float64]]:
    """Return what `Stamps.parts_s` does, of the time between boundaries, ``[num_steps, 2 + 10 * num_layers]``."""
    layers = spans_s[:, 1:-1].reshape(-1, num_layers, len(LAYER_PARTS))
    parts = {"embed": spans_s[:, 0], "head": spans_s[:, -1]}
    return parts | {name: layers[:, :, place] for place, name in enumerate(LAYER_PARTS)}


@contextmanager
def stamped(model: Any, stamps: Stamps | None) -> Iterator[None]:
    """Mark the start of every decoder layer and of the final norm while the block runs."""
    if stamps is None:
        yield
        return

    def mark(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        del module, inputs
        stamps.mark()

    places = (*decoder_layers(model), final_norm(model))
    hooks = [module.register_forward_pre_hook(mark) for module in places]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
