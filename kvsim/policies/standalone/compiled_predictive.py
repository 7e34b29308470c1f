"""The policy `predictive`, compiled: it decides as its plain twin does, in `kvsim.kernels.pages.speculated_use`."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvsim.kernels.pages import speculated_use
from kvsim.policies.base import NOTHING, Plan, View
from kvsim.policies.standalone.predictive import Predictive
from kvsim.types import PageIds


class CompiledPredictive(Predictive):
    """`kvsim.policies.standalone.predictive.Predictive`, compiled."""

    def start(self, resident: PageIds) -> None:
        """Begin, with the tables that the kernel works on."""
        super().start(resident)
        grid = self._grid
        self._tables = np.stack((self._recent, self._use))  # recent scores and predicted use, [2, num_page_ids]
        self._use = self._tables[1]
        self._logs = np.zeros((2, grid.num_pages))
        self._by_layer = np.zeros((grid.num_layers, grid.num_sequences + 2), dtype=np.int64)
        self._no_speculation = np.zeros((grid.num_sequences, 0))
        decays = self._decay_frac, self._error_decay_frac, self._need_decay_frac, self._reach_frac
        self._arguments = tuple(float(each) for each in (self._confidence_step, self._target_frac, *decays))
        pools = self._pools.count, self._pools.capacity_pages
        self._sizes = *pools, grid.pages_per_layer, grid.num_layers * grid.pages_per_layer

    def decide(self, view: View) -> Plan:
        """Return the pages of least predicted use as victims, and the likely ones of the next layer, or of this one."""
        speculation = self._no_speculation if view.speculation is None else view.speculation.astype(np.float64)
        decided: Any = speculated_use.decide(
            self._tables,
            self._logs,
            self._by_layer,
            self._needs,
            self._is_unread,
            view.scores.astype(np.float64),
            speculation,
            view.selected,
            view.misses.size,
            (view.resident, view.evictable, view.prefetchable),
            (float(self.confidence), *self._arguments),
            (view.layer, int(view.free_slots), view.prefetch_quota),
            self._sizes,
        )
        victims, prefetches, self.confidence = decided
        self._choose_prediction(view.layer)
        return Plan(victims=victims, prefetches=prefetches) if victims.size or prefetches.size else NOTHING
