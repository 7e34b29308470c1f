"""Compiled evictors: each decides what its plain twin decides, in kernels (`lists`, `evict` and `rank`).

The plain classes, which they share arguments with, define what they mean; tests hold the two together, decision by
decision.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from kvsim.kernels.pages import evict, lists, rank
from kvsim.policies.base import Setting, View
from kvsim.policies.evictors.pools import Pools
from kvsim.policies.future import Future, NextUses
from kvsim.types import BoolArray, FloatArray, IntArray, PageIds

_SPARES_NONE: BoolArray = np.empty(0, dtype=np.bool_)
_LOW_64_BITS = 2**64 - 1


class _InOrder:
    """What FIFO and LRU share: a list a pool, in order of age."""

    def __init__(self, setting: Setting) -> None:
        self._pools = Pools(setting)
        self._first_list = setting.grid.num_pages
        self._links = lists.empty_lists(setting.grid.num_pages, self._pools.count)
        self._sizes = setting.grid.pages_per_layer, self._pools.count

    def arrived(self, pages: PageIds) -> None:
        lists.arrived(self._links, pages, *self._sizes)

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        victims: PageIds = np.empty(count, dtype=np.int64)
        size = lists.take_oldest(self._links, self._first_list + pool, count, view.evictable, _mask(spared), victims)
        return victims[:size]

    def left(self, pages: PageIds) -> None:
        lists.forget(self._links, pages)


class CompiledFifo(_InOrder):
    """`kvsim.policies.evictors.fifo.Fifo`, compiled."""

    def touch(self, view: View) -> None:
        """Queue the misses."""
        lists.fifo_touch(self._links, self._first_list + self._pools.of_layer(view.layer), view.misses)


class CompiledLru(_InOrder):
    """`kvsim.policies.evictors.lru.Lru`, compiled."""

    def touch(self, view: View) -> None:
        """Move what is read to the young end."""
        lists.lru_touch(self._links, self._first_list + self._pools.of_layer(view.layer), view.selected)


class _Linked:
    """What evictors with further queues share: their links, and the sizes that kernels find a page's pool by."""

    lists_per_pool: ClassVar[int] = 1

    def __init__(self, setting: Setting) -> None:
        self._pools = Pools(setting)
        self._links: IntArray = evict.empty_links(setting.grid.num_pages, self.lists_per_pool * self._pools.count)
        self._sizes = setting.grid.pages_per_layer, self._pools.count


class CompiledSieve(_Linked):
    """`kvsim.policies.evictors.sieve.Sieve`, compiled."""

    def arrived(self, pages: PageIds) -> None:
        """Queue the arrivals."""
        evict.sieve_arrived(self._links, pages, *self._sizes)

    def touch(self, view: View) -> None:
        """Queue the misses, and mark what is read again."""
        evict.sieve_touch(self._links, self._pools.of_layer(view.layer), view.selected)

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return what the hand takes."""
        return _ids(evict.sieve_victims(self._links, pool, count, view.evictable, _mask(spared)))

    def left(self, pages: PageIds) -> None:
        """Take the pages out of the queue."""
        evict.sieve_left(self._links, pages)


class CompiledArc(_Linked):
    """`kvsim.policies.evictors.arc.Arc`, compiled."""

    lists_per_pool: ClassVar[int] = evict.ARC_LISTS

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._targets: FloatArray = np.zeros(self._pools.count)

    def arrived(self, pages: PageIds) -> None:
        """Put the arrivals at the young end of T1."""
        evict.arc_arrived(self._links, pages, *self._sizes)

    def touch(self, view: View) -> None:
        """Move what is read to where a reading brings it."""
        pool = self._pools.of_layer(view.layer)
        evict.arc_touch(self._links, self._targets, pool, self._pools.capacity_pages, view.selected)

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return the oldest pages of the list that is too long."""
        capacity_pages, mask = self._pools.capacity_pages, _mask(spared)
        victims = evict.arc_victims(self._links, self._targets, pool, capacity_pages, count, view.evictable, mask)
        return _ids(victims)

    def left(self, pages: PageIds) -> None:
        """Forget the pages, with no ghost."""
        evict.live_left(self._links, pages, evict.ARC_LISTS, evict.ONCE_GHOSTS)


class CompiledS3Fifo(_Linked):
    """`kvsim.policies.evictors.s3_fifo.S3Fifo`, compiled."""

    lists_per_pool: ClassVar[int] = evict.S3_LISTS

    def __init__(self, setting: Setting, *, small_frac: float = 0.1) -> None:
        if not 0 < small_frac < 1:
            raise ValueError(f"small_frac must be between 0 and 1, got {small_frac}")
        super().__init__(setting)
        self._small_pages = max(1, int(small_frac * self._pools.capacity_pages))
        self._max_ghosts = self._pools.capacity_pages - self._small_pages

    def arrived(self, pages: PageIds) -> None:
        """Queue the arrivals in the small queue."""
        evict.s3_arrived(self._links, pages, *self._sizes)

    def touch(self, view: View) -> None:
        """Count the readings, and queue the misses."""
        evict.s3_touch(self._links, self._pools.of_layer(view.layer), view.selected)

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return what the queues give."""
        sizes = self._small_pages, self._max_ghosts
        return _ids(evict.s3_victims(self._links, pool, *sizes, count, view.evictable, _mask(spared)))

    def left(self, pages: PageIds) -> None:
        """Take the pages out of the queues, with no ghost."""
        evict.live_left(self._links, pages, evict.S3_LISTS, evict.GHOSTS)


class _Ranked:
    """What evictors by rank share: the pages of the least keys leave."""

    def __init__(self, setting: Setting) -> None:
        grid = setting.grid
        self._grid = grid
        self._pools = Pools(setting)
        self._sizes = self._pools.count, grid.pages_per_layer
        self._step = grid.num_layers * grid.pages_per_layer
        """From a page of one sequence to the same page of the next."""
        self._keys: Any = np.zeros(grid.num_pages, dtype=np.int64)

    def arrived(self, pages: PageIds) -> None:
        pass

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        return _ids(rank.least(self._keys, pool, *self._sizes, count, view.evictable, _mask(spared)))

    def left(self, pages: PageIds) -> None:
        pass


class CompiledLfu(_Ranked):
    """`kvsim.policies.evictors.lfu.Lfu`, compiled."""

    def arrived(self, pages: PageIds) -> None:
        """Begin to count."""
        self._keys[pages] = 0

    def touch(self, view: View) -> None:
        """Count the readings."""
        rank.lfu_touch(self._keys, view.selected, view.misses)


class CompiledImportanceRank(_Ranked):
    """`kvsim.policies.evictors.importance_rank.ImportanceRank`, compiled."""

    def touch(self, view: View) -> None:
        """Rank the pages of the layer anew."""
        first = view.layer * self._grid.pages_per_layer
        rank.rank_layer(self._keys, view.scores.astype(np.float64), first, self._step)


class CompiledScoredRecency(_Ranked):
    """`kvsim.policies.evictors.scored_recency.ScoredRecency`, compiled."""

    def __init__(self, setting: Setting, *, score_decay_frac: float = 0.1) -> None:
        if not 0 <= score_decay_frac < 1:
            raise ValueError(f"score_decay_frac must be in [0, 1), got {score_decay_frac}")
        super().__init__(setting)
        self._keys = np.zeros(setting.grid.num_pages)
        self._score_decay_frac = float(score_decay_frac)

    def arrived(self, pages: PageIds) -> None:
        """Begin the sums at 0."""
        self._keys[pages] = 0.0

    def touch(self, view: View) -> None:
        """Let the layer's sums decay, and add the scores of what is read."""
        pages_per_layer = self._grid.pages_per_layer
        rank.recency_touch(
            self._keys,
            view.scores.astype(np.float64),
            self._score_decay_frac,
            view.layer * pages_per_layer,
            self._step,
            pages_per_layer,
            view.selected,
            view.misses,
        )


class CompiledRandomPages(_Ranked):
    """`kvsim.policies.evictors.random_pages.RandomPages`, compiled."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._keys = np.zeros(setting.grid.num_pages, dtype=np.uint64)
        self._seed = np.uint64(setting.seed & _LOW_64_BITS)
        self._num_draws = 0

    def touch(self, view: View) -> None:
        """Nothing to learn."""

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return the pages of the lowest lots."""
        self._num_draws += 1
        rank.draw_lots(self._keys, self._seed, self._num_draws, pool, *self._sizes, view.evictable)
        return super().victims(view, pool, count, spared)


class CompiledBelady(_Ranked):
    """`kvsim.policies.evictors.belady.Belady`, compiled."""

    is_oracle: ClassVar[bool] = True

    def foresee(self, future: Future) -> None:
        """Read off the next use of every page."""
        self._uses = NextUses(future, self._grid.num_pages)
        self._keys = -self._uses.at

    def touch(self, view: View) -> None:
        """Pass this decision: its pages are next read after it."""
        self._uses.advance(view.step, view.layer)
        self._keys[view.selected] = -self._uses.at[view.selected]


def _mask(spared: BoolArray | None) -> BoolArray:
    return _SPARES_NONE if spared is None else spared


def _ids(victims: Any) -> PageIds:
    pages: PageIds = victims
    return pages
