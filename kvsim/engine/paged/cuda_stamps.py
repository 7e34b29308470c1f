"""Where a step's time goes on a GPU: an event on the compute stream at every boundary, beside the host's stamps."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from kvsim.engine.links.cuda import timed_event
from kvsim.engine.paged.stamps import Stamps, parts_of


class EventStamps(Stamps):
    """Stamps of the device's clock, on which a wait for pages is a gap and the host's own time is not seen.

    From the end of scoring until the decision's copies are handed over the device idles for the host: that is shown as
    ``sync``, ``decide`` and ``submit``, and what `choose` takes is part of ``sync``. Elsewhere a kernel that waited for
    its launch looks like one that took longer: eager code bound by launches shows them in its segments.
    """

    def __init__(self) -> None:
        super().__init__()
        self._events: list[torch.cuda.Event] = []

    def mark(self) -> None:
        """Pass a boundary."""
        super().mark()
        event = timed_event()
        event.record()
        self._events.append(event)

    def parts_s(self, num_layers: int) -> dict[str, NDArray[np.float64]]:
        """Return the device's seconds of each part; waits until the last boundary has passed."""
        self._events[-1].synchronize()
        per_step = len(self._events) // len(self.edges_s(num_layers))
        edges_s = np.array(
            [
                [self._events[first].elapsed_time(event) * 1e-3 for event in self._events[first : first + per_step]]
                for first in range(0, len(self._events), per_step)
            ]
        )  # CUDA gives ms
        parts = parts_of(np.diff(edges_s, axis=1), num_layers)
        return parts | {"sync": parts["sync"] + parts["choose"], "choose": np.zeros_like(parts["choose"])}
