"""Decodes on transformers' own caches, step by step as on pages, so that their time compares with a policy's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from kvsim.engine.model.held import Held, held_by
from kvsim.engine.paged.decode import DecodeResult, timed_step, undisturbed
from kvsim.engine.paged.prefill import Snapshot, left_padding
from kvsim.engine.paged.tally import BYTES, COUNTS
from kvsim.types import pages_of


def offloaded_cache(model: Any) -> DynamicCache:
    """Return transformers' cache that keeps layers in host memory; on a CUDA device only."""
    return DynamicCache(config=model.config, offloading=True)


@torch.inference_mode()
def decode_on(
    make_cache: Callable[[Any], Any],
    model: Any,
    snapshot: Snapshot,
    forced_tokens: torch.Tensor,
    *,
    page_tokens: int,
    counts_copies: bool,
) -> DecodeResult:
    """Decode `forced_tokens`, ``[num_sequences, num_steps]``, on a cache of `make_cache` filled from `snapshot`.

    A step is timed as a step on pages is. Counts are of another kind: ``selected`` are the pages that its context would
    be, and the bytes are those that its layers moved, if `counts_copies`, which takes a little time itself; it has no
    pages, so all other counts are 0.
    """
    num_steps = forced_tokens.shape[1]
    prompts = snapshot.sequence_tokens
    cache = make_cache(model)
    fill(cache, snapshot, held_by(model.config), model.device)
    moved = CopyCounts(cache.layers) if counts_copies else None
    counts: dict[str, NDArray[np.int64]] = {
        name: np.zeros(num_steps, dtype=np.int64) for name in (*COUNTS, *BYTES, "digest")
    }
    step_s: list[float] = []
    tokens: list[torch.Tensor] = []
    with undisturbed():
        for step in range(num_steps):
            places = padding_at(step, snapshot, model.device)
            outcome = timed_step(model, cache, forced_tokens[:, step : step + 1], None, **places)
            step_s.append(outcome.step_s)
            tokens.append(outcome.chosen)
            pages = sum(pages_of(tokens + 1 + step, page_tokens) for tokens in prompts.tolist())
            counts["selected"][step] = pages * snapshot.num_layers
            if moved is not None:
                counts["to_device_bytes"][step], counts["to_host_bytes"][step] = moved.read()
    return DecodeResult(
        step_s=np.array(step_s),
        counts=counts,
        parts_s=None,
        tokens=torch.cat(tokens, dim=1),
        logits=None,
        transfers=[],
        stamps=None,
    )


def padding_at(step: int, snapshot: Snapshot, device: torch.device) -> dict[str, torch.Tensor]:
    """Return what a model is handed besides the tokens of `step` where a cache holds padding; nothing where not."""
    if snapshot.unequal_tokens is None:
        return {}
    tokens = (snapshot.sequence_tokens + step + 1).tolist()
    positions, mask = left_padding(tokens, snapshot.prompt_tokens + step + 1, device)
    return {"position_ids": positions[:, -1:], "attention_mask": mask}


def fill(cache: Any, snapshot: Snapshot, held: Held, device: torch.device) -> None:
    """Give `cache` the prompt's keys and values, layer by layer, as a prefill does: padded on the left."""
    paged = (place for place in range(len(cache.layers)) if place not in snapshot.unpaged)
    for layer, place in zip(range(snapshot.num_layers), paged, strict=True):
        cache.update(*held.parts(_padded(snapshot, snapshot.layer_prompt(layer, device))), place)
    for place, layer in snapshot.unpaged.items():
        cache.layers[place] = copy.deepcopy(layer)  # states are written in place


def _padded(snapshot: Snapshot, prompt: torch.Tensor) -> torch.Tensor:
    """Return the prompt of a layer with each sequence moved to the end."""
    if snapshot.unequal_tokens is None:
        return prompt
    shifts = [snapshot.prompt_tokens - tokens for tokens in snapshot.unequal_tokens]
    return torch.stack([own.roll(shift, dims=0) for own, shift in zip(prompt, shifts, strict=True)])


class CopyCounts:
    """Counts the bytes that cache layers move when they are asked to prefetch or offload."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self._moved_bytes = {"prefetch": 0, "offload": 0}
        for layer in layers:
            for name in self._moved_bytes:
                setattr(layer, name, self._counted(layer, name))

    def read(self) -> tuple[int, int]:
        """Return the bytes moved to the device and to the host since the last reading."""
        moved_bytes = self._moved_bytes["prefetch"], self._moved_bytes["offload"]
        self._moved_bytes = dict.fromkeys(self._moved_bytes, 0)
        return moved_bytes

    def _counted(self, layer: Any, name: str) -> Callable[[], None]:
        move = getattr(layer, name)

        def counted() -> None:
            before = layer.keys.device if layer.is_initialized else None
            move()
            if before is not None and layer.keys.device != before:
                self._moved_bytes[name] += layer.keys.nbytes + layer.values.nbytes

        return counted
