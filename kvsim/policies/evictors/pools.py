"""Which pool of slots a page lives in: all layers share one, or each layer has its own."""

from __future__ import annotations

import itertools
from collections.abc import MutableMapping

import numpy as np

from kvsim.policies.base import Setting
from kvsim.types import BoolArray, PageIds


class Pools:
    """The pools of a setting, numbered: 0 where all layers share one, else the layer."""

    def __init__(self, setting: Setting) -> None:
        self._grid = setting.grid
        self._is_shared = setting.partition == "shared"
        self.count = 1 if self._is_shared else setting.grid.num_layers
        self.capacity_pages = setting.capacity_pages // self.count
        """Slots of one pool."""

    def of_layer(self, layer: int) -> int:
        """Return the pool of a layer's pages."""
        return 0 if self._is_shared else layer

    def of_page(self, page: int) -> int:
        """Return the pool of a page."""
        return 0 if self._is_shared else (page // self._grid.pages_per_layer) % self._grid.num_layers

    def candidates(self, evictable: BoolArray, pool: int, spared: BoolArray | None) -> PageIds:
        """Return the pages of a pool that may leave and are not spared, ascending."""
        may_leave = evictable if spared is None else evictable & ~spared
        if self._is_shared:
            return np.flatnonzero(may_leave)
        return self._grid.layer_pages(pool, self._grid.of_layer(may_leave, pool))

    def num_free(self, resident: BoolArray, pool: int) -> int:
        """Return the slots of a layer's own pool that no resident page has."""
        return self.capacity_pages - int(np.count_nonzero(self._grid.of_layer(resident, pool)))


def may_leave(page: int, evictable: BoolArray, spared: BoolArray | None) -> bool:
    """Return whether a page may leave and is not spared."""
    return bool(evictable[page]) and (spared is None or not spared[page])


def take_first(queue: MutableMapping[int, None], count: int, evictable: BoolArray, spared: BoolArray | None) -> PageIds:
    """Take the first `count` pages that may leave out of a queue, and return them; the others keep their places."""
    may_go = (page for page in queue if may_leave(page, evictable, spared))
    first = list(itertools.islice(may_go, count))
    for page in first:
        del queue[page]
    return np.array(first, dtype=np.int64)
