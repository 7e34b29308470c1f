"""What attention reads at each step and layer: the selections of a source, worked out once for all policies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvsim.policies.base import NO_PAGES
from kvsim.policies.selectors import Selector
from kvsim.traces.access.base import NEXT_LAYER, AccessSource
from kvsim.traces.access.layers import LayersOf
from kvsim.traces.access.repeated import Repeated
from kvsim.types import BoolArray, FloatArray, IntArray, PageGrid, PageIds, Scores, pages_of

MAX_CACHED_BYTES = 512 * 2**20
"""Readings are kept for the next policy up to so many bytes; beyond, they are worked out again."""


def mean_frac(shares: FloatArray) -> float:
    """Return the mean of shares; NaN of none, as where all sequences have ended."""
    return float(shares.mean()) if shares.size else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one layer reads at one step."""

    num_pages: IntArray
    """Pages of each sequence now, the open one included, ``[num_sequences]``; 0 for one that has ended."""
    selected: PageIds
    """Page ids that the selector chose, ascending."""
    scores: Scores
    """The selector's channel, ``[num_sequences, num_pages]``."""
    attended_frac: FloatArray
    """Share of the attention mass in the selected pages, of each sequence that has not ended."""


BLOCK_STEPS = 64
"""Most steps of a block."""
BLOCK_PAGES = 2**19
"""Page ids in a block, about: where everything is read, a step has many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Readings of consecutive steps, packed."""

    first_step: int
    num_steps: int
    selected: PageIds
    """Selected page ids of all steps and layers, one after the other."""
    offsets: IntArray
    """Where each layer's begin, and where the last one's end, ``[num_steps * num_layers + 1]``."""
    context: IntArray
    """Tokens of each sequence, ``[num_steps, num_sequences]``; 0 once it has ended."""
    scores: list[Scores]
    """Scores of each step and layer, ``[num_sequences, num_pages]`` each."""
    mass_recall_frac: FloatArray
    """Share of the attention mass in the selected pages, the mean over layers and sequences, ``[num_steps]``."""


class Replay:
    """Readings of one source under one selector; `selector` None reads every page and scores nothing."""

    def __init__(
        self, source: AccessSource, selector: Selector | None, *, channel: str, page_tokens: int, num_steps: int
    ) -> None:
        self.source = source
        self.page_tokens = page_tokens
        self.num_steps = num_steps
        self._selector = selector
        originals = source.originals() if isinstance(source, Repeated) else np.arange(source.num_sequences)
        self._originals: list[int] = originals.tolist()
        self._channel = channel
        last = int(source.context_tokens(num_steps - 1).max())
        self.grid = PageGrid(
            num_sequences=source.num_sequences,
            num_layers=source.num_layers,
            pages_per_layer=pages_of(last, page_tokens),
        )
        self._readings: dict[tuple[int, int], Reading] = {}
        self._cached_bytes = 0
        self._contexts: dict[int, IntArray] = {}

    def of_layers(self, layers: range) -> Replay:
        """Return the readings of some layers in a row, counted from 0."""
        part = Replay(
            LayersOf(self.source, layers),
            self._selector,
            channel=self._channel,
            page_tokens=self.page_tokens,
            num_steps=self.num_steps,
        )
        part._originals = self._originals
        return part

    @property
    def scores_pages(self) -> bool:
        """Whether pages are scored and chosen at all."""
        return self._selector is not None

    def context_tokens(self, step: int) -> IntArray:
        """Return the tokens each sequence attends to, ``[num_sequences]``; 0 once it has ended.

        A sequence has ended where its context in the source does not grow, and it has no attention mass.
        """
        if step not in self._contexts:
            context = self.source.context_tokens(step)
            stands_still = context == self.source.context_tokens(step - 1) if step else np.zeros(len(context), np.bool_)
            if stands_still.any():
                stands_still &= ~self.source.mass(step, 0, self.page_tokens).any(axis=1)
            self._contexts[step] = np.where(stands_still, 0, context)
        return self._contexts[step]

    def num_pages(self, tokens: IntArray) -> IntArray:
        """Return the pages that hold `tokens` of each sequence."""
        return np.array([pages_of(int(count), self.page_tokens) for count in tokens], dtype=np.int64)

    def at(self, step: int, layer: int, *, everything: bool) -> Reading:
        """Return the reading of one layer; `everything`: of all pages, whatever the selector says."""
        if everything or self._selector is None:
            return self._read_all(step, layer)
        reading = self._readings.get((step, layer))
        if reading is None:
            reading = self._read_chosen(step, layer)
            size = reading.selected.nbytes + reading.scores.nbytes
            if self._cached_bytes + size <= MAX_CACHED_BYTES:
                self._cached_bytes += size
                self._readings[step, layer] = reading
        return reading

    def block(self, first_step: int, *, everything: bool) -> Block:
        """Return the readings from `first_step` on, as many steps as make a block."""
        steps: list[list[Reading]] = []
        size = 0
        for step in range(first_step, min(first_step + BLOCK_STEPS, self.num_steps)):
            readings = [self.at(step, layer, everything=everything) for layer in range(self.grid.num_layers)]
            steps.append(readings)
            size += sum(reading.selected.size for reading in readings)
            if size >= BLOCK_PAGES:
                break
        flat = [reading for readings in steps for reading in readings]
        attended = np.array([[mean_frac(reading.attended_frac) for reading in readings] for readings in steps])
        return Block(
            first_step=first_step,
            num_steps=len(steps),
            selected=np.concatenate([reading.selected for reading in flat]),
            offsets=np.cumsum([0, *(reading.selected.size for reading in flat)], dtype=np.int64),
            context=np.array([self.context_tokens(first_step + place) for place in range(len(steps))], dtype=np.int64),
            scores=[reading.scores for reading in flat],
            mass_recall_frac=attended.mean(axis=1),
        )

    def attended_frac(self, step: int, layer: int, pages: PageIds) -> FloatArray:
        """Return the share of the attention mass in `pages` of one layer, of each sequence that has not ended."""
        mass = self.source.mass(step, layer, self.page_tokens).astype(np.float64)
        sequences, indices = np.divmod(pages, self.grid.num_layers * self.grid.pages_per_layer)
        inside = np.zeros(len(mass))
        np.add.at(inside, sequences, mass[sequences, indices % self.grid.pages_per_layer])
        total = mass.sum(axis=1)
        shares: FloatArray = np.divide(inside, total, out=np.full(len(mass), np.nan), where=total > 0)
        return shares[self.context_tokens(step) > 0]

    @property
    def selects_by_speculation(self) -> bool:
        """Whether pages are chosen by what the layer before predicted."""
        return self.scores_pages and self._channel == NEXT_LAYER

    def speculation(self, step: int, layer: int) -> Scores | None:
        """Return the next layer's scores as predicted at `layer`, ``[num_sequences, num_pages]``; None at the last.

        Raises
        ------
        TraceError
            If the source has no speculation for this page size.
        """
        if layer + 1 == self.source.num_layers:
            return None
        return self.source.scores(step, layer + 1, NEXT_LAYER, self.page_tokens)

    def _read_all(self, step: int, layer: int) -> Reading:
        num_pages = self.num_pages(self.context_tokens(step))
        ids = [self._first(sequence, layer) + np.arange(num_pages[sequence]) for sequence in range(num_pages.size)]
        return Reading(
            num_pages=num_pages,
            selected=np.concatenate(ids),
            scores=np.zeros((num_pages.size, int(num_pages.max())), dtype=np.float16),
            attended_frac=np.ones(np.count_nonzero(num_pages)),
        )

    def _read_chosen(self, step: int, layer: int) -> Reading:
        assert self._selector is not None  # the caller asked for a choice
        num_pages = self.num_pages(self.context_tokens(step))
        scores = self.source.scores(step, layer, self._channel, self.page_tokens)
        mass = self.source.mass(step, layer, self.page_tokens)
        recorded: BoolArray | None = self.source.selection(step, layer, self.page_tokens)
        if not num_pages.all():
            scores = np.where(num_pages[:, None] > 0, scores, scores.dtype.type(0))
        chosen, attended = [], []
        done: dict[int, tuple[IntArray, float]] = {}
        for sequence, original in enumerate(self._originals):
            if not num_pages[sequence]:
                continue
            if original not in done:
                count = int(num_pages[sequence])
                if recorded is not None:
                    indices = np.flatnonzero(recorded[sequence, :count])
                else:
                    indices = self._selector.select(scores[sequence], count)
                row = mass[sequence].astype(np.float64)
                total = float(row.sum())
                done[original] = indices, float(row[indices].sum()) / total if total > 0 else np.nan
            indices, attended_frac = done[original]
            attended.append(attended_frac)
            chosen.append(self._first(sequence, layer) + indices)
        return Reading(
            num_pages=num_pages,
            selected=np.concatenate([NO_PAGES, *chosen]),
            scores=scores,
            attended_frac=np.array(attended),
        )

    def _first(self, sequence: int, layer: int) -> int:
        return self.grid.first_page(sequence=sequence, layer=layer)


@dataclass(frozen=True, slots=True)
class ReplayFuture:
    """What a replay will select, for an oracle (`kvsim.policies.future.Future`)."""

    replay: Replay
    everything: bool

    @property
    def num_steps(self) -> int:
        """Steps of the run."""
        return self.replay.num_steps

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return self.replay.grid.num_layers

    def selected(self, step: int, layer: int) -> PageIds:
        """Return the pages that attention reads, ascending."""
        return self.replay.at(step, layer, everything=self.everything).selected
