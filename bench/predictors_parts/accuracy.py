"""How much of the next selection a prefetcher predicts, with no cache in play: every page of the middle is missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvsim.policies.base import NO_PAGES, View
from kvsim.policies.composed import Prefetcher
from kvsim.policies.future import Oracle
from kvsim.policies.selectors import middle_of
from kvsim.sim import Replay
from kvsim.sim.replay import ReplayFuture
from kvsim.types import BoolArray, PageIds


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Of the pages of the middle that a layer reads next, over all layers and steps that count."""

    recall_frac: float
    """Share of the pages read that were predicted."""
    precision_frac: float
    """Share of the pages predicted that were read; the recall where always as many were predicted as were read."""


def measure_accuracy(
    prefetcher: Prefetcher, replay: Replay, *, sink_pages: int, recent_pages: int, warmup_steps: int
) -> Accuracy:
    """Return how well `prefetcher` predicts each layer's selection of the middle from the decision just before it.

    It sees a device that holds sinks, window and open pages only, so that it wants all that it expects. Of what it
    wants of the coming layer, the first count, as many as that layer then reads of its middle.
    """
    grid = replay.grid
    quota = grid.num_pages
    if isinstance(prefetcher, Oracle):
        prefetcher.foresee(ReplayFuture(replay, everything=False))
    prefetcher.start(NO_PAGES)
    predicted, read, found = 0, 0, 0
    guess: PageIds = NO_PAGES
    for step in range(replay.num_steps):
        for layer in range(grid.num_layers):
            reading = replay.at(step, layer, everything=False)
            resident, missing = _bare_device(replay, step, sink_pages, recent_pages)
            middle = reading.selected[missing[reading.selected]]
            if step >= warmup_steps:
                mine = guess[grid.layer_of(guess) == layer][: middle.size]
                predicted += mine.size
                read += middle.size
                found += int(np.intersect1d(mine, middle).size)
            missing[middle] = False
            view = View(
                step=step,
                layer=layer,
                selected=reading.selected,
                misses=middle,
                scores=reading.scores,
                speculation=replay.speculation(step, layer) if prefetcher.reads_speculation else None,
                resident=resident,
                evictable=np.zeros(grid.num_pages, dtype=np.bool_),
                prefetchable=missing,
                free_slots=quota,
                prefetch_quota=quota,
            )
            guess = prefetcher.wanted(view)
    return Accuracy(
        recall_frac=found / read if read else float("nan"),
        precision_frac=found / predicted if predicted else float("nan"),
    )


def _bare_device(replay: Replay, step: int, sink_pages: int, recent_pages: int) -> tuple[BoolArray, BoolArray]:
    """Return which pages never leave the device, and which are complete and not on it, ``[num_page_ids]`` each."""
    grid = replay.grid
    resident: BoolArray = np.zeros(grid.num_pages, dtype=np.bool_)
    missing: BoolArray = np.zeros(grid.num_pages, dtype=np.bool_)
    rows = (grid.num_sequences, grid.num_layers, grid.pages_per_layer)
    for sequence, total in enumerate(replay.num_pages(replay.context_tokens(step)).tolist()):
        first, last = middle_of(total, sink_pages, recent_pages)
        resident.reshape(rows)[sequence, :, :first] = True
        resident.reshape(rows)[sequence, :, last:total] = True
        missing.reshape(rows)[sequence, :, first:last] = True
    return resident, missing
