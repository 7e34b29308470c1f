"""How sparse and how predictable a trace is: by layer, over all pages and on the middle, where prediction is hard."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import TraceError
from kvsim.traces.access.base import MASS, AccessSource
from kvsim.types import BoolArray, FloatArray, IntArray, pages_of

TOP_PAGES = (1, 4, 8, 16)
"""Sizes of the best sets whose mass is reported."""
MASS_FRACS = (0.90, 0.95, 0.99)
"""Shares of the mass whose pages are counted."""
RECALL_PAGES = 8
"""Size of the sets that recall compares."""
RECALL_GAP_STEPS = 8
"""Steps between those that the longer recall compares."""
RECENT_TOKENS = 128
"""The recent window: what is newer is no part of the middle."""


def recent_pages(page_tokens: int) -> int:
    """Return how many pages the last 128 tokens are counted as, the open one included."""
    return max(1, RECENT_TOKENS // page_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStatistics:
    """Means over steps and sequences, by layer; a value that says nothing there is nan.

    The *middle* is that of the first step, the first page and the last 128 tokens of the prompt left out: sinks and
    the recent window hold most of the mass, and any predictor that keeps them looks good.
    """

    page_tokens: int
    num_steps: int
    num_pages: int
    """Pages of the longest sequence at the last step."""
    middle_pages: int
    """Pages in the middle of the longest sequence."""
    top_share_frac: FloatArray
    """Mass in the best 1, 4, 8, 16 pages, ``[4, num_layers]``."""
    pages_for_mass: FloatArray
    """Fewest pages that hold 90, 95, 99% of the mass, ``[3, num_layers]``."""
    sink_frac: FloatArray
    """Mass of the first page."""
    recent_frac: FloatArray
    """Mass of the last 128 tokens' worth of pages, the open one included."""
    middle_frac: FloatArray
    """Mass of the middle."""
    middle_top_frac: FloatArray
    """Share of the middle's mass in the best 8 pages of it."""
    step_recall_frac: FloatArray
    """Share of a step's best 8 pages that were among the best 8 of the step before."""
    layer_recall_frac: FloatArray
    """Share of a layer's best 8 pages that are among the best 8 of the layer before; nan for layer 0."""
    middle_step_recall_frac: FloatArray
    middle_layer_recall_frac: FloatArray
    middle_gap_recall_frac: FloatArray
    """Share of a step's best 8 of the middle that were among the best 8 of 8 steps before."""
    middle_first_recall_frac: FloatArray
    """Share of the best 8 of the middle that were among the best 8 by the mass of the first 8 steps."""
    middle_distinct_pages: FloatArray
    """Different middle pages that were among the best 8 at some step."""
    channel_recall_frac: dict[str, FloatArray]
    """By channel: share of the best 8 pages by mass that are among its best 8."""
    middle_channel_recall_frac: dict[str, FloatArray]
    middle_channel_top_frac: dict[str, FloatArray]
    """By channel: share of the middle's score in its best 8 pages of it."""
    middle_channel_step_recall_frac: dict[str, FloatArray]
    """By channel: share of its own best 8 of the middle that were among its best 8 at the step before."""

    @property
    def num_layers(self) -> int:
        """Layers of the trace."""
        return int(self.sink_frac.size)

    @property
    def chance_recall_frac(self) -> float:
        """What recall on the middle would be if pages were drawn by lot."""
        return min(1.0, RECALL_PAGES / self.middle_pages) if self.middle_pages else float("nan")

    def by_layer(self) -> dict[str, FloatArray]:
        """Return every statistic by a flat name, ``[num_layers]`` each."""
        flat: dict[str, FloatArray] = {}
        for k, row in zip(TOP_PAGES, self.top_share_frac, strict=True):
            flat[f"top_{k}_share_frac"] = row
        for frac, row in zip(MASS_FRACS, self.pages_for_mass, strict=True):
            flat[f"pages_for_{round(100 * frac)}_percent"] = row
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, dict):
                flat |= {f"{field.name.removesuffix('_frac')}:{name}_frac": row for name, row in value.items()}
            elif isinstance(value, np.ndarray) and value.ndim == 1:
                flat[field.name] = value
        return flat

    def averages(self) -> dict[str, float]:
        """Return every statistic by a flat name, averaged over the layers where it says something."""
        return {name: _mean(row) for name, row in self.by_layer().items()}


def measure_statistics(
    source: AccessSource,
    page_tokens: int,
    *,
    channels: Sequence[str] | None = None,
    prompt_tokens: IntArray | None = None,
    num_steps: int | None = None,
) -> TraceStatistics:
    """Return the statistics of `source` in pages of `page_tokens` tokens.

    Parameters
    ----------
    channels
        Channels to compare with the mass; where absent, all that the source has for this page size.
    prompt_tokens
        Tokens of each sequence before step 0, ``[num_sequences]``; where absent, the context of step 0 but one.
    num_steps
        Steps to look at, the first ones; all where absent.

    Raises
    ------
    TraceError
        If the source has no masses for this page size, or not a channel that was asked for.
    """
    steps = source.num_steps if num_steps is None else min(num_steps, source.num_steps)
    prompt = source.context_tokens(0) - 1 if prompt_tokens is None else prompt_tokens
    middle_end = np.maximum((prompt - RECENT_TOKENS) // page_tokens, 1)  # [num_sequences], first page past the middle
    if channels is None:
        channels = [name for name in source.channels if name != MASS and has_channel(source, name, page_tokens)]
    totals = _Totals(source, page_tokens, middle_end, list(channels))
    for step in range(steps):
        totals.add(step)
    return totals.result(steps)


def has_channel(source: AccessSource, channel: str, page_tokens: int) -> bool:
    """Return whether `source` holds `channel` for pages of `page_tokens` tokens."""
    try:
        source.scores(0, 0, channel, page_tokens)
    except TraceError:
        return False
    return True


def step_scores(source: AccessSource, step: int, channel: str, page_tokens: int) -> NDArray[np.float32]:
    """Return one channel of every layer of a step, ``[num_sequences, num_layers, num_pages]``, in float32."""
    rows = [source.scores(step, layer, channel, page_tokens) for layer in range(source.num_layers)]
    return np.stack(rows, axis=1).astype(np.float32)


class _Totals:
    """Sums over steps and sequences on the way to a `TraceStatistics`."""

    def __init__(self, source: AccessSource, page_tokens: int, middle_end: IntArray, channels: list[str]) -> None:
        self.source, self.page_tokens, self.middle_end, self.channels = source, page_tokens, middle_end, channels
        self.num_pages = pages_of(int(source.context_tokens(source.num_steps - 1).max()), page_tokens)
        shape = (source.num_sequences, source.num_layers, self.num_pages)
        self.first_mass = np.zeros(shape)
        self.first_best: IntArray | None = None
        self.seen = np.zeros(shape, dtype=np.bool_)
        self.last: dict[str, IntArray] = {}
        self.lately: deque[IntArray] = deque(maxlen=RECALL_GAP_STEPS)
        self.sums: dict[str, FloatArray] = {}
        self.counts: dict[str, FloatArray] = {}
        self.has_middle = int(middle_end.min()) - 1 > RECALL_PAGES
        """With no more pages than are compared, every recall is 1 and says nothing."""

    def add(self, step: int) -> None:
        mass = step_scores(self.source, step, MASS, self.page_tokens)
        own_pages = -(-self.source.context_tokens(step) // self.page_tokens)
        order = np.argsort(-mass, axis=-1, kind="stable")
        self._add_shares(mass, order, own_pages)
        everywhere = order[..., :RECALL_PAGES]
        self._add_recalls("", MASS, everywhere)
        if self.has_middle:
            middle = best_middle(order, self.middle_end)
            self._add_middle(step, mass, middle)
        for channel in self.channels:
            scores = step_scores(self.source, step, channel, self.page_tokens)
            says: BoolArray = np.asarray(scores.any(axis=-1))
            order = np.argsort(-scores, axis=-1, kind="stable")
            self._add(f"recall:{channel}", _overlap(everywhere, order[..., :RECALL_PAGES]), says)
            if self.has_middle:
                theirs = best_middle(order, self.middle_end)
                self._add(f"middle_recall:{channel}", _overlap(middle, theirs), says)
                self._add_step_recall(f"middle_step:{channel}", theirs, says)
                self._add_top(f"middle_top:{channel}", scores * self._is_middle(scores), theirs)

    def _add_shares(self, mass: NDArray[np.float32], order: IntArray, own_pages: IntArray) -> None:
        reached = np.cumsum(np.take_along_axis(mass, order, axis=-1), axis=-1, dtype=np.float64)
        for k in TOP_PAGES:
            self._add(f"top_{k}", reached[..., min(k, mass.shape[-1]) - 1])
        for frac in MASS_FRACS:
            target = frac * reached[..., -1:]
            self._add(f"pages_for_{frac}", 1.0 + (reached < target * (1 - 1e-9)).sum(axis=-1))
        is_recent = np.arange(mass.shape[-1]) >= (own_pages - recent_pages(self.page_tokens))[:, None, None]
        self._add("sink", mass[..., 0])
        self._add("recent", (mass * is_recent).sum(axis=-1))
        self._add("middle", (mass * self._is_middle(mass)).sum(axis=-1))

    def _add_middle(self, step: int, mass: NDArray[np.float32], best: IntArray) -> None:
        inside = mass * self._is_middle(mass)
        self._add_top("middle_top", inside, best)
        self._add_recalls("middle_", MASS, best)
        np.put_along_axis(self.seen, best, True, axis=-1)
        if len(self.lately) == RECALL_GAP_STEPS:
            self._add("middle_gap", _overlap(best, self.lately[0]))
        self.lately.append(best)
        if step < RECALL_GAP_STEPS:
            self.first_mass[..., : mass.shape[-1]] += inside
            return
        if self.first_best is None:
            self.first_best = np.argsort(-self.first_mass, axis=-1, kind="stable")[..., :RECALL_PAGES]
        self._add("middle_first", _overlap(best, self.first_best))

    def _is_middle(self, scores: NDArray[np.float32]) -> BoolArray:
        column = np.arange(scores.shape[-1])
        inside: BoolArray = (column >= 1) & (column < self.middle_end[:, None, None])
        return inside

    def _add_top(self, name: str, inside: NDArray[np.float32], best: IntArray) -> None:
        total = inside.sum(axis=-1)
        top = np.take_along_axis(inside, best, axis=-1).sum(axis=-1)
        self._add(name, top / np.where(total > 0, total, 1), total > 0)

    def _add_recalls(self, where: str, channel: str, best: IntArray) -> None:
        self._add_step_recall(f"{where}step:{channel}", best, None)
        between = _overlap(best[:, 1:], best[:, :-1])
        self._add(f"{where}layer", np.concatenate((np.full((between.shape[0], 1), np.nan), between), axis=1))

    def _add_step_recall(self, name: str, best: IntArray, says: BoolArray | None) -> None:
        before = self.last.get(name)
        if before is not None and before.shape == best.shape:
            self._add(name, _overlap(best, before), says)
        self.last[name] = best

    def _add(self, name: str, value: NDArray[Any], says: BoolArray | None = None) -> None:
        counted = np.isfinite(value) if says is None else says
        zero = np.zeros(value.shape[1])
        self.sums[name] = self.sums.get(name, zero) + np.where(counted, value, 0).sum(axis=0)
        self.counts[name] = self.counts.get(name, zero) + counted.sum(axis=0)

    def _of(self, name: str) -> FloatArray:
        count = self.counts.get(name, np.zeros(self.source.num_layers))
        total = self.sums.get(name, np.zeros(self.source.num_layers))
        mean: FloatArray = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return mean

    def result(self, num_steps: int) -> TraceStatistics:
        distinct = self.seen.sum(axis=-1).mean(axis=0)
        return TraceStatistics(
            page_tokens=self.page_tokens,
            num_steps=num_steps,
            num_pages=self.num_pages,
            middle_pages=int(self.middle_end.max()) - 1,
            top_share_frac=np.stack([self._of(f"top_{k}") for k in TOP_PAGES]),
            pages_for_mass=np.stack([self._of(f"pages_for_{frac}") for frac in MASS_FRACS]),
            sink_frac=self._of("sink"),
            recent_frac=self._of("recent"),
            middle_frac=self._of("middle"),
            middle_top_frac=self._of("middle_top"),
            step_recall_frac=self._of(f"step:{MASS}"),
            layer_recall_frac=self._of("layer"),
            middle_step_recall_frac=self._of(f"middle_step:{MASS}"),
            middle_layer_recall_frac=self._of("middle_layer"),
            middle_gap_recall_frac=self._of("middle_gap"),
            middle_first_recall_frac=self._of("middle_first"),
            middle_distinct_pages=distinct if self.has_middle else np.full(distinct.size, np.nan),
            channel_recall_frac={name: self._of(f"recall:{name}") for name in self.channels},
            middle_channel_recall_frac={name: self._of(f"middle_recall:{name}") for name in self.channels},
            middle_channel_top_frac={name: self._of(f"middle_top:{name}") for name in self.channels},
            middle_channel_step_recall_frac={name: self._of(f"middle_step:{name}") for name in self.channels},
        )


def best_middle(order: IntArray, middle_end: IntArray) -> IntArray:
    """Return the best 8 middle pages, ``[..., 8]``, of pages ordered best first; the middle begins at page 1.

    `middle_end` is the first page past it, ``[num_sequences]``; it must leave 8 pages or more.
    """
    inside = (order >= 1) & (order < middle_end[:, None, None])
    first = inside & (np.cumsum(inside, axis=-1, dtype=np.int32) <= RECALL_PAGES)
    best: IntArray = order[first].reshape(*order.shape[:-1], RECALL_PAGES)
    return best


def _overlap(these: IntArray, those: IntArray) -> FloatArray:
    """Return the share of the last axis of `these` that is also in `those`."""
    shared = (these[..., :, None] == those[..., None, :]).any(axis=-1)
    share: FloatArray = shared.mean(axis=-1)
    return share


def _mean(row: FloatArray) -> float:
    known = row[np.isfinite(row)]
    return float(known.mean()) if known.size else float("nan")
