"""Exact attention by layer-wise streaming: while layer l computes, the pages of layer l+1 come."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from kvsim.policies.base import NO_PAGES, Plan, Setting, View
from kvsim.types import BoolArray, PageIds


class Stream:
    """Read every page of every layer and fetch the next layer's while this one computes.

    What offloaded caches do (transformers' `OffloadedCache`; FlexGen, arXiv 2303.06865), with two differences: pages
    that were written back are not copied out again, and the budget beyond two layers keeps pages for the next round.
    Reading is a cyclic scan, so the page whose next use lies furthest ahead leaves (Belady, IBM Systems Journal 1966):
    the layer just read goes first. Ties go to the smallest id.
    """

    attends: ClassVar[Literal["selection", "everything", "resident"]] = "everything"
    holds: ClassVar[Literal["budget", "everything"]] = "budget"
    reads_selection: ClassVar[bool] = False

    def __init__(self, setting: Setting) -> None:
        if setting.partition != "shared":
            raise ValueError("needs budget.partition = 'shared': two layers at a time use the whole pool")
        self._grid = setting.grid

    def start(self, resident: PageIds) -> None:
        """Nothing to remember: the order of use is known."""

    def page_opened(self, page: int) -> None:
        """Nothing to remember."""

    def decide(self, view: View) -> Plan:
        """Return the next layer's missing pages, and the pages used furthest in the future to make room."""
        num_layers = self._grid.num_layers
        coming = self._pages(view.prefetchable, (view.layer + 1) % num_layers) if num_layers > 1 else NO_PAGES
        short = max(0, coming.size - view.free_slots)
        victims = self._furthest(view, short)
        room = view.free_slots + victims.size
        return Plan(victims=victims, prefetches=coming[: max(room, 0)])

    def _furthest(self, view: View, count: int) -> PageIds:
        parts: list[PageIds] = []
        num_layers = self._grid.num_layers
        for distance in range(num_layers - 1, 1, -1):
            if count <= 0:
                break
            pages = self._pages(view.evictable, (view.layer + distance) % num_layers)[:count]
            parts.append(pages)
            count -= pages.size
        short_of_misses = -view.free_slots - sum(pages.size for pages in parts)
        if short_of_misses > 0:
            parts.append(self._pages(view.evictable, (view.layer + 1) % num_layers)[:short_of_misses])
        return np.concatenate(parts) if parts else NO_PAGES

    def _pages(self, mask: BoolArray, layer: int) -> PageIds:
        return self._grid.layer_pages(layer, self._grid.of_layer(mask, layer))
