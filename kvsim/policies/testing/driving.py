"""Made-up accesses and a loop that drives a policy over them: for the tests of a plug-in's author and for timing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from kvsim.policies.base import Policy, Setting
from kvsim.policies.future import is_oracle
from kvsim.policies.residency import Decision, Residency
from kvsim.scenario.digest import content_digest
from kvsim.types import FloatArray, IntArray, PageGrid, PageIds, Partition, Scores

PINNED_PAGES = 1
"""Pages at the start of each layer, and complete pages before the open one, that never leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one layer of one step reads; as in a simulation."""

    num_pages: IntArray
    selected: PageIds
    scores: Scores
    speculation: Scores | None


class MadeAccesses:
    """Selections of the best pages by scores that drift from step to step; a page opens every few steps.

    It is also its own future, for oracles.
    """

    def __init__(
        self,
        *,
        num_steps: int,
        num_layers: int,
        num_sequences: int,
        pages_per_layer: int,
        k_pages: int,
        everything: bool,
        seed: int,
        steps_per_page: int = 4,
    ) -> None:
        self.num_steps = num_steps
        self.num_layers = num_layers
        self.grid = PageGrid(num_sequences=num_sequences, num_layers=num_layers, pages_per_layer=pages_per_layer)
        self._k_pages = k_pages
        self._everything = everything
        self._opened = [step // steps_per_page for step in range(num_steps)]
        self._rng = np.random.default_rng(seed)
        shape = num_layers, num_sequences, pages_per_layer
        self._base: FloatArray = self._rng.normal(size=shape)
        self._drift: FloatArray = self._rng.normal(size=shape)
        self._steps: list[Scores] = []

    def num_pages(self, step: int) -> IntArray:
        """Return the pages of each sequence at one step, the open one included; before the first at step -1."""
        opened = self._opened[-1] - self._opened[max(step, 0)]
        return np.full(self.grid.num_sequences, self.grid.pages_per_layer - opened, dtype=np.int64)

    def reading(self, step: int, layer: int) -> Reading:
        """Return what one layer reads."""
        num_pages = self.num_pages(step)
        scores = self._scores(step, layer)[:, : num_pages[0]]
        following = None
        if layer + 1 < self.num_layers:
            following = self._scores(step, layer + 1)[:, : num_pages[0]]
        return Reading(
            num_pages=num_pages, selected=self.selected(step, layer), scores=scores.copy(), speculation=following
        )

    def selected(self, step: int, layer: int) -> PageIds:
        """Return the pages that one layer reads, ascending."""
        total = int(self.num_pages(step)[0])
        selected = []
        for sequence, scores in enumerate(self._scores(step, layer)):
            likely = scores[:total].astype(np.float64)
            likely[:PINNED_PAGES] = likely[total - 1 - PINNED_PAGES :] = np.inf  # sinks, recent window, open page
            count = total if self._everything else min(self._k_pages, total)
            chosen = np.sort(np.argsort(-likely, kind="stable")[:count])
            selected.append(self.grid.first_page(sequence=sequence, layer=layer) + chosen)
        return np.concatenate(selected)

    def _scores(self, step: int, layer: int) -> Scores:
        while len(self._steps) <= step:
            self._drift = 0.8 * self._drift + 0.6 * self._rng.normal(size=self._drift.shape)
            raw = np.exp(self._base + self._drift)
            self._steps.append((raw / raw.sum(axis=2, keepdims=True)).astype(np.float16))
        scores: Scores = self._steps[step][layer]
        return scores


def setting_for(
    accesses: MadeAccesses, *, capacity_pages: int, partition: Partition, quota_pages: int, seed: int
) -> Setting:
    """Return a setting of so many slots, evened out over the layers."""
    layers = accesses.num_layers
    return Setting(
        grid=accesses.grid,
        capacity_pages=min(capacity_pages // layers * layers, accesses.grid.num_pages),
        partition=partition,
        prefetch_quota_pages=quota_pages,
        seed=seed,
    )


def drive(
    policy: Policy,
    setting: Setting,
    accesses: MadeAccesses,
    *,
    scribbles: bool = False,
    around: Callable[[Callable[[], Decision]], Decision] | None = None,
) -> Iterator[Decision]:
    """Yield what `policy` does at every step and layer.

    Parameters
    ----------
    scribbles
        Whether arrays that the policy was shown are overwritten after each call, as a real runtime would.
    around
        Makes each call instead, as a clock would.
    """
    if is_oracle(policy):
        policy.foresee(accesses)
    residency = Residency(policy, setting, pinned_first_pages=PINNED_PAGES, pinned_last_pages=PINNED_PAGES)
    residency.start(accesses.num_pages(-1))
    for step in range(accesses.num_steps):
        for layer in range(accesses.num_layers):
            reading = accesses.reading(step, layer)
            shown = reading.selected.copy()
            for array in (shown, reading.scores):
                array.flags.writeable = False

            def call(
                step: int = step, layer: int = layer, reading: Reading = reading, shown: PageIds = shown
            ) -> Decision:
                return residency.decide(
                    step=step,
                    layer=layer,
                    selected=shown,
                    scores=reading.scores,
                    num_pages=reading.num_pages,
                    speculation=reading.speculation,
                )

            yield call() if around is None else around(call)
            if scribbles:
                for array in (shown, reading.scores):
                    array.flags.writeable = True
                    array[:] = 0


def digest_of(decisions: Iterator[Decision]) -> str:
    """Return a digest of victims and prefetches, in their order."""
    decided = (pages for decision in decisions for pages in (decision.victims, decision.prefetches))
    parts = (pages.size.to_bytes(8, "little") + pages.astype("<i8").tobytes() for pages in decided)
    return content_digest(*parts, num_bytes=16)
