"""The policy `attention`, compiled: it decides what its plain twin decides, in `kvsim.kernels.pages.predicted_use`."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvsim.kernels.pages import predicted_use
from kvsim.policies.base import NOTHING, Plan, View
from kvsim.policies.standalone.attention import Attention
from kvsim.types import PageIds


class CompiledAttention(Attention):
    """`kvsim.policies.standalone.attention.Attention`, compiled."""

    def start(self, resident: PageIds) -> None:
        """Begin, with the tables that the kernel works on."""
        super().start(resident)
        grid = self._grid
        self._tables = np.stack((self._recent, self._use))  # recent scores and predicted use, [2, num_page_ids]
        self._use = self._tables[1]
        self._arguments = float(self._confidence_step), float(self._target_frac), float(self._decay_frac)
        self._sizes = self._pools.count, grid.pages_per_layer, grid.num_layers * grid.pages_per_layer

    def decide(self, view: View) -> Plan:
        """Return the pages of least predicted use as victims, and this layer's likely ones for the next step."""
        decided: Any = predicted_use.decide(
            self._tables,
            self._is_unread,
            view.scores.astype(np.float64),
            view.selected,
            view.evictable,
            view.prefetchable,
            (float(self.confidence), *self._arguments),
            (view.layer, int(view.free_slots), view.prefetch_quota),
            self._sizes,
        )
        victims, prefetches, self.confidence = decided
        return Plan(victims=victims, prefetches=prefetches) if victims.size or prefetches.size else NOTHING
