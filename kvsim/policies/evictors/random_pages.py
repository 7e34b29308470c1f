"""Random: any page leaves, by the scenario's seed; what an order of eviction is worth is what it gains over this."""

from __future__ import annotations

import numpy as np

from kvsim.policies.base import Setting, View
from kvsim.policies.evictors.pools import Pools
from kvsim.types import BoolArray, PageIds

_MASK = 2**64 - 1


class RandomPages:
    """Evict pages drawn evenly from those that may leave.

    A page's lot in one draw is a hash of the seed, the number of the draw and the page, so it depends on nothing else;
    the lowest lots leave. The hash is the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). O(pages of the
    grid).
    """

    def __init__(self, setting: Setting) -> None:
        self._pools = Pools(setting)
        self._seed = setting.seed
        self._num_draws = 0

    def arrived(self, pages: PageIds) -> None:
        """Nothing to learn."""

    def touch(self, view: View) -> None:
        """Nothing to learn."""

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return the pages of the lowest lots."""
        self._num_draws += 1
        draw = mix(self._seed + mix(self._num_draws))
        pages = self._pools.candidates(view.evictable, pool, spared)
        drawn = sorted(pages.tolist(), key=lambda page: (mix(draw ^ page), page))
        return np.array(drawn[:count], dtype=np.int64)

    def left(self, pages: PageIds) -> None:
        """Nothing to forget."""


def mix(value: int) -> int:
    """Return a hash of `value` modulo 2**64, in 0 to 2**64 - 1."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
