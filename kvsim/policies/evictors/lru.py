"""Least recently used: the page that attention read longest ago leaves."""

from __future__ import annotations

from kvsim.policies.base import View
from kvsim.policies.evictors.fifo import Fifo


class Lru(Fifo):
    """Evict the page that attention read longest ago.

    Pages read in one decision age in order of their ids; an arrival counts as a reading. After Denning, "The working
    set model for program behavior", CACM 1968, with pages of layers and sequences in one pool (or a pool a layer).
    `touch` is O(selected), `victims` O(count + skipped).
    """

    def touch(self, view: View) -> None:
        """Move what is read to the young end."""
        order = self._oldest_first[self._pools.of_layer(view.layer)]
        for page in view.selected.tolist():
            order.pop(page, None)
            order[page] = None
