"""What happened, counted: one row for each decode step, in the columns that every result shares."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from kvsim.policies.residency import Decision
from kvsim.profile.profile import SEGMENTS
from kvsim.sim.compute import Parts
from kvsim.sim.replay import mean_frac
from kvsim.types import FloatArray, PageGrid

COUNTS = ("selected", "hits", "misses", "late", "prefetched", "used", "wasted", "evicted")
BYTES = ("to_device_bytes", "to_host_bytes")
TIMES = (*(f"{name}_s" for name in SEGMENTS), "stall_s", "host_s")
"""Parts of a step on the compute stream's clock: they add up to ``step_s``."""
HOST_TIMES = ("decide_s", "sync_s", "submit_s")
"""Host time within a step; where the device idles meanwhile it stands in ``host_s`` too."""


class Ledger:
    """Counts of one run, by step.

    Examples
    --------
    A page counts as used when it is first read after its prefetch, as wasted when it leaves unread:

    >>> from kvsim.types import PageGrid
    >>> sorted(Ledger(PageGrid(num_sequences=1, num_layers=1, pages_per_layer=4), page_bytes=64).columns())[:3]
    ['attention_input_s', 'attention_output_s', 'attention_s']
    """

    def __init__(self, grid: PageGrid, page_bytes: int) -> None:
        self._page_bytes = page_bytes
        self._is_unread = np.zeros(grid.num_pages, dtype=np.bool_)
        self._rows: list[dict[str, float]] = []
        self._row: dict[str, float] = {}
        self._digest = 0
        self._mass: list[float] = []
        self.begin(0, 0, is_warmup=False)

    def begin(self, step: int, context_tokens: int, *, is_warmup: bool) -> None:
        """Open the row of a step."""
        self._row = {"step": step, "context_tokens": context_tokens, "is_warmup": is_warmup}
        self._row |= dict.fromkeys((*COUNTS, *BYTES, *HOST_TIMES), 0)
        self._digest = 0
        self._mass = []

    def count(self, decision: Decision) -> None:
        """Add what one decision did."""
        row = self._row
        row["selected"] += decision.selected.size
        row["hits"] += decision.hits.size
        row["misses"] += decision.misses.size
        row["prefetched"] += decision.prefetches.size
        row["evicted"] += decision.victims.size
        row["to_device_bytes"] += (decision.misses.size + decision.prefetches.size) * self._page_bytes
        row["used"] += int(np.count_nonzero(self._is_unread[decision.selected]))
        row["wasted"] += int(np.count_nonzero(self._is_unread[decision.victims]))
        self._is_unread[decision.selected] = False
        self._is_unread[decision.victims] = False
        self._is_unread[decision.prefetches] = True
        for pages in (decision.selected, decision.misses, decision.victims, decision.prefetches):
            self._digest = zlib.crc32(np.ascontiguousarray(pages, dtype=np.int64).tobytes(), self._digest)

    def late(self, count: int) -> None:
        """Add hits whose bytes had not arrived."""
        self._row["late"] += count

    def written_back(self, num_pages: int) -> None:
        """Add pages copied to the host."""
        self._row["to_host_bytes"] += num_pages * self._page_bytes

    def mass(self, attended_frac: FloatArray) -> None:
        """Add the share of the attention mass that one layer attended to, of each sequence that has not ended."""
        self._mass.append(mean_frac(attended_frac))

    def host(self, name: str, time_s: float) -> None:
        """Add host time to one of `HOST_TIMES`."""
        self._row[name] += time_s

    def end(self, step_s: float, parts: Parts) -> None:
        """Close the row of a step that took `step_s`."""
        row = self._row
        row["step_s"] = step_s
        row |= {f"{name}_s": time_s for name, time_s in parts.segments_s.items()}
        row["stall_s"], row["host_s"] = parts.stall_s, parts.host_s
        row["mass_recall_frac"] = float(np.mean(self._mass)) if self._mass else float("nan")
        row["digest"] = self._digest
        self._rows.append(row)

    def finish(self) -> None:
        """Count prefetched pages that nobody read as wasted, in the last row."""
        if self._rows:
            self._rows[-1]["wasted"] += int(np.count_nonzero(self._is_unread))
        self._is_unread[:] = False

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Return the rows as columns."""
        return {name: _column(name, (row[name] for row in self._rows)) for name in COLUMNS}


COLUMNS = (
    "step",
    "context_tokens",
    "is_warmup",
    "step_s",
    *TIMES,
    *HOST_TIMES,
    *COUNTS,
    *BYTES,
    "mass_recall_frac",
    "digest",
)


def _column(name: str, values: Iterable[float]) -> NDArray[np.generic]:
    if name == "is_warmup":
        return np.array(list(values), dtype=np.bool_)
    if name.endswith(("_s", "_frac")):
        return np.array(list(values), dtype=np.float64)
    return np.array(list(values), dtype=np.int64)
