"""Listens to one decode step: an attention function that also keeps what each layer's query says of its pages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, PreTrainedModel

from kvsim.engine.capture.scores import PageSummaries, head_products, mean_mass, sum_by
from kvsim.engine.model.dense import dense_attention
from kvsim.engine.model.families import (
    Queries,
    attention_modules,
    decoder_layers,
    weightings_of,
)
from kvsim.engine.model.held import held_by
from kvsim.errors import KvsimError
from kvsim.traces.access.base import MASS, NEXT_LAYER
from kvsim.types import UNIT_TOKENS

QUEST, MEAN, CUBOID_MEAN = "estimate:quest", "estimate:mean", "estimate:cuboid-mean"
_ATTENTION = "kvsim-record"


def parse_channel(name: str) -> tuple[str, int]:
    """Return the score and the page size of a channel that can be captured beside ``mass``.

    Raises
    ------
    KvsimError
        If it is none of the four, or its page size is not a multiple of 16 tokens.

    Examples
    --------
    >>> parse_channel("estimate:quest@32")
    ('estimate:quest', 32)
    """
    score, _, page = name.partition("@")
    if score not in (QUEST, MEAN, CUBOID_MEAN, NEXT_LAYER) or not page.isascii() or not page.isdigit():
        raise KvsimError(
            f"channel {name!r}: capture records {QUEST}@P, {MEAN}@P, {CUBOID_MEAN}@P and {NEXT_LAYER}@P for pages of "
            f"P tokens, as in {QUEST}@32"
        )
    if int(page) < UNIT_TOKENS or int(page) % UNIT_TOKENS:
        raise KvsimError(f"channel {name!r}: a page must be a multiple of {UNIT_TOKENS} tokens")
    return score, int(page)


class StepRecorder:
    """Keeps the channels of the current decode step of one sequence; use inside `recording`.

    `values` holds float32 arrays ``[1, num_layers, n]`` by channel, n as many as the step's context needs.
    """

    def __init__(self, model: PreTrainedModel, channels: tuple[str, ...], max_tokens: int) -> None:
        self._channels = tuple((name, *parse_channel(name)) for name in channels)
        self._queries = Queries(model)
        self._weightings = weightings_of(model)
        self._held = held_by(model.config)
        self._places = {int(module.layer_idx): place for place, module in enumerate(attention_modules(model))}  # type: ignore[arg-type]
        self._rows: dict[str, list[Tensor]] = {}
        self._max_tokens = max_tokens
        self._layers: list[Any] = []
        self._summaries: list[dict[int, PageSummaries]] = []

    @property
    def speculates(self) -> bool:
        """Whether a channel wants `speculate` to be called."""
        return any(score == NEXT_LAYER for _, score, _ in self._channels)

    def begin(self, layers: list[Any]) -> None:
        """Summarise the prompt: the layers with pages of its cache, which holds one sequence."""
        self._layers = layers
        self._summaries = [self._summaries_of(self._keys(place)) for place in range(len(layers))]

    def _summaries_of(self, keys: Tensor) -> dict[int, PageSummaries]:
        """Return the summaries of a layer's keys by page size."""
        summaries: dict[int, PageSummaries] = {}
        for page_tokens in {page_tokens for _, _, page_tokens in self._channels}:
            summaries[page_tokens] = PageSummaries(
                page_tokens=page_tokens,
                max_tokens=self._max_tokens,
                num_kv_heads=keys.shape[0],
                head_dim=keys.shape[-1],
                device=keys.device,
            )
            summaries[page_tokens].extend(keys)
        return summaries

    def _keys(self, layer: int) -> Tensor:
        """Return what queries of a layer meet, ``[num_kv_heads, num_tokens, head_dim]``."""
        held = self._layers[layer]
        return self._held.key(held.keys, held.values)[0]

    def begin_step(self) -> None:
        """Forget the step before."""
        self._rows = {MASS: []}
        for name, score, _ in self._channels:
            self._rows[name] = [torch.zeros(1)] if score == NEXT_LAYER else []  # nothing speaks of layer 0

    def values(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the channels of the step, once the model has run."""
        return {name: _stack(rows) for name, rows in self._rows.items()}

    def attended(self, layer_idx: int, query: Tensor, keys: Tensor) -> None:
        """Record the mass and the estimates of one layer: query ``[1, num_heads, 1, head_dim]``, all of its keys.

        `layer_idx` is the layer's place in the model; one without pages is not recorded.
        """
        layer = self._places.get(layer_idx)
        if layer is None:
            return
        weighting = self._weightings[layer]
        query = self._queries.inward(layer, query)[0, :, 0]
        if self._held.latent_numbers is not None:
            keys = self._keys(layer)  # those handed over were made of the latents
        self._rows[MASS].append(sum_by(UNIT_TOKENS, mean_mass(head_products(query, keys), weighting)))
        for summary in self._summaries[layer].values():
            summary.extend(keys)
        for name, score, page_tokens in self._channels:
            pages = self._summaries[layer][page_tokens]
            if score == QUEST:
                self._rows[name].append(pages.quest(query, weighting))
            elif score == MEAN:
                self._rows[name].append(pages.mean(query, weighting))
            elif score == CUBOID_MEAN:
                self._rows[name].append(pages.cuboid_mean(query, weighting))

    def speculate(self, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor] | None) -> None:
        """Record what the hidden state entering the layer before says of `layer`, ``[1, 1, hidden_size]``.

        The pages are those that `layer` has then: without the token being decoded, whose key it has yet to make.
        Its page, if new, scores 0. After InfiniGen (OSDI 2024), with whole queries instead of its partial weights.
        """
        query = self._queries.of(layer, hidden, rotary)
        for name, score, page_tokens in self._channels:
            if score == NEXT_LAYER:
                pages = self._summaries[layer][page_tokens]
                self._rows[name].append(pages.quest(query[0, :, 0], self._weightings[layer]))


@contextlib.contextmanager
def recording(model: PreTrainedModel, recorder: StepRecorder) -> Iterator[dict[str, StepRecorder]]:
    """Let `recorder` hear the decode steps of `model`, called with the arguments this yields; all is undone after.

    It uses transformers' `AttentionInterface` and torch's hooks on the layers' inputs, and changes no code.
    """
    AttentionInterface.register(_ATTENTION, _recorded_attention)
    before = model.config._attn_implementation
    hooks = [
        layer.register_forward_pre_hook(_speculation(recorder, number + 1), with_kwargs=True)
        for number, layer in enumerate(decoder_layers(model)[:-1])
        if recorder.speculates
    ]
    model.set_attn_implementation(_ATTENTION)
    try:
        yield {"recorder": recorder}
    finally:
        model.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()


def _speculation(recorder: StepRecorder, layer: int) -> Any:
    def hook(module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:  # noqa: ARG001
        recorder.speculate(layer, arguments[0], named.get("position_embeddings"))

    return hook


def _recorded_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    recorder: StepRecorder,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend to one new token, ``[1, num_heads, 1, head_dim]``, and let the recorder hear it."""
    recorder.attended(int(module.layer_idx), query, key[0])  # type: ignore[arg-type]
    return dense_attention(module, query, key, value, attention_mask, scaling=scaling, **others)


def _stack(rows: list[Tensor]) -> np.ndarray[Any, Any]:
    stacked: np.ndarray[Any, Any] = pad_sequence([row.cpu() for row in rows], batch_first=True)[None].numpy()
    return stacked
