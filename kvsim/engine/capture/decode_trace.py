"""Writes what a decode run saw and read as an access trace: the selector's scores, its choices, and attended mass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kvsim.engine.capture.scores import mean_mass
from kvsim.engine.links.page_pool import PagePool
from kvsim.engine.model.weighting import Weighting
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.engine.paged.prefill import Snapshot
from kvsim.engine.paged.scoring import Seen
from kvsim.scenario.shapes import ModelShape
from kvsim.traces.access.base import MASS, NEXT_LAYER
from kvsim.traces.access.file import TraceWriter
from kvsim.traces.access.header import SELECTION, TraceHeader, channel_of
from kvsim.types import UNIT_TOKENS, IntArray, PageIds, pages_of


class DecodeRecorder:
    """An observer of a run that appends a record to `writer` after every step.

    The mass of a unit is its share of the attention of the pages that were read, mean over query heads: where pages
    were left out it is not the mass that full attention would have given them.
    """

    def __init__(
        self, writer: TraceWriter, run_input: DecodeInput, pool: PagePool, weightings: Sequence[Weighting]
    ) -> None:
        self._writer = writer
        self._input = run_input
        self._pool = pool
        self._weightings = weightings
        grid = run_input.setting.grid
        layers = (grid.num_sequences, grid.num_layers)
        self._scores: NDArray[np.float16] = np.zeros((*layers, grid.pages_per_layer), dtype=np.float16)
        self._speculation: NDArray[np.float16] = np.zeros_like(self._scores)
        self._selection = np.zeros((*layers, grid.pages_per_layer), dtype=np.bool_)
        units = grid.pages_per_layer * run_input.page_tokens // UNIT_TOKENS
        self._mass: NDArray[np.float32] = np.zeros((*layers, units), dtype=np.float32)

    def layer(
        self, layer: int, seen: Seen, selected: PageIds, query: torch.Tensor, slots: IntArray, unfilled_tokens: IntArray
    ) -> None:
        """Take down one layer: `selected` pages in `slots`, the last of each sequence short of `unfilled_tokens`."""
        grid, page_tokens = self._input.setting.grid, self._input.page_tokens
        self._scores[:, layer] = 0
        self._scores[:, layer, : seen.scores.shape[1]] = seen.scores
        if seen.speculation is not None:
            self._speculation[:, layer + 1] = 0
            self._speculation[:, layer + 1, : seen.speculation.shape[1]] = seen.speculation
        self._selection[:, layer] = False
        self._mass[:, layer] = 0
        for sequence in range(grid.num_sequences):
            first = grid.first_page(sequence=sequence, layer=layer)
            part = slice(*np.searchsorted(selected, (first, first + grid.pages_per_layer)))
            indices = selected[part] - first
            if not indices.size:  # the sequence has ended
                continue
            self._selection[sequence, layer, indices] = True
            tokens = self._token_mass(layer, query[sequence, :, 0], slots[part], int(unfilled_tokens[sequence]))
            by_unit = tokens.reshape(indices.size, page_tokens // UNIT_TOKENS, UNIT_TOKENS).sum(axis=-1)
            self._mass[sequence, layer].reshape(grid.pages_per_layer, -1)[indices] = by_unit

    def end_step(self, sequence_tokens: IntArray) -> None:
        """Write the record of a step at whose end the sequences have `sequence_tokens`."""
        context_tokens = int(sequence_tokens.max())
        num_pages = pages_of(context_tokens, self._input.page_tokens)
        num_units = pages_of(context_tokens, UNIT_TOKENS)
        by_page: dict[str, NDArray[Any]] = {SELECTION: self._selection, self._input.channel: self._scores}
        by_page |= {NEXT_LAYER: self._speculation} if _records_speculation(self._input) else {}
        values: dict[str, NDArray[Any]] = {MASS: self._mass[:, :, :num_units]}
        values |= {name: by_page[name.partition("@")[0]][:, :, :num_pages] for name in _page_channels(self._input)}
        self._writer.append(sequence_tokens.tolist(), values)

    def _token_mass(
        self, layer: int, query: torch.Tensor, slots: IntArray, unfilled_tokens: int
    ) -> NDArray[np.float32]:
        """Return the mean over heads of the weights of attended tokens, 0 for the unfilled, ``[tokens]``."""
        keys = self._pool.slots[torch.from_numpy(slots).to(query.device), :, 0].float().flatten(0, 1)
        filled = keys[: len(keys) - unfilled_tokens].transpose(0, 1)  # [kv head, token, head_dim]
        grouped = query.float().reshape(filled.shape[0], -1, query.shape[-1])
        mass = mean_mass((grouped @ filled.transpose(1, 2)).flatten(0, 1), self._weightings[layer])
        padded: NDArray[np.float32] = torch.nn.functional.pad(mass, (0, unfilled_tokens)).cpu().numpy()
        return padded


def _records_speculation(run_input: DecodeInput) -> bool:
    """Return whether a channel of its own is written; a selector by speculation has it already."""
    return run_input.predicts and run_input.records_speculation and run_input.channel != NEXT_LAYER


def _page_channels(run_input: DecodeInput) -> list[str]:
    """Return the channels that have a value a page, in the order of the file."""
    names = [SELECTION, *([run_input.channel] if run_input.scores_pages else [])]
    names += [NEXT_LAYER] if _records_speculation(run_input) else []
    return [f"{name}@{run_input.page_tokens}" for name in names]


def trace_writer(
    path: Path, run_input: DecodeInput, snapshot: Snapshot, shape: ModelShape, *, model: str, text: str, recorded: str
) -> TraceWriter:
    """Return the writer of a trace of `run_input`, to be entered with ``with``.

    Parameters
    ----------
    recorded
        ``teacher-forced`` or ``greedy``: where each next token came from.
    """
    prompts: list[int] = snapshot.sequence_tokens.tolist()
    max_tokens = max(tokens + steps for tokens, steps in zip(prompts, run_input.steps, strict=True))
    header = TraceHeader.model_validate(
        {
            "model": model,
            "shape": shape,
            "text": text,
            "compute_dtype": shape.dtype,
            "recorded": recorded,
            "num_layers": snapshot.num_layers,
            "num_sequences": snapshot.num_sequences,
            "prompt_tokens": tuple(prompts),
            "max_tokens": max_tokens,
            "channels": tuple(channel_of(name, max_tokens) for name in (MASS, *_page_channels(run_input))),
        }
    )
    return TraceWriter(path, header)
