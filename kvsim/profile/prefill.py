"""What prefill in chunks costs: one rule for every experiment that reads prompts (docs/decisions/0008)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvsim.profile.profile import Profile
from kvsim.profile.tables import CostTable
from kvsim.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillCost:
    """The cost of the calls of the model that compute one prompt.

    Two tables time such a call. A chunk takes `calls` where that one was measured for it, or where it has fewer tokens
    than `chunks` begins with; `chunks` otherwise.
    """

    calls: CostTable
    """``forward@1``: from one new token on, after short contexts."""
    chunks: CostTable
    """``prefill``: chunks, after long contexts too."""
    chunk_tokens: int
    """Tokens of one call, at most."""

    def times_s(self, new_tokens: IntArray, cached_tokens: IntArray | int) -> tuple[FloatArray, BoolArray]:
        """Return the seconds to compute each prompt's tokens after its cached ones, ``[n]``.

        With it comes whether a call of it lies outside what was measured.
        """
        left, done = new_tokens.copy(), np.zeros_like(new_tokens) + cached_tokens
        times_s, is_outside = np.zeros(left.size), np.zeros(left.size, dtype=bool)
        while (busy := np.flatnonzero(left > 0)).size:
            chunk = np.minimum(left[busy], self.chunk_tokens)
            for table, chosen in self._tables(chunk, done[busy]):
                at, amounts = busy[chosen], chunk[chosen]
                times_s[at] += table.times_s(amounts, cached_tokens=done[at])
                is_outside[at] |= ~table.covers(amounts, cached_tokens=done[at])
            left[busy] -= chunk
            done[busy] += chunk
        return times_s, is_outside

    def time_s(self, new_tokens: int, cached_tokens: int) -> float:
        """Return `times_s` of one prompt."""
        return float(self.times_s(np.array([new_tokens]), cached_tokens)[0][0])

    def _tables(self, chunk: IntArray, cached_tokens: IntArray) -> list[tuple[CostTable, BoolArray]]:
        """Return both tables, each with the calls that it prices."""
        is_near = (chunk <= self.calls.amounts[-1]) & (cached_tokens <= self.calls.columns[-1])
        is_call = is_near | (chunk < self.chunks.amounts[0])
        return [(self.calls, is_call), (self.chunks, ~is_call)]


def prefill_cost(profile: Profile, chunk_tokens: int) -> PrefillCost | None:
    """Return the cost of prefill in chunks; None where the profile has neither of the tables that time it."""
    tables = [table for table in (profile.caches.get("forward@1"), profile.prefill) if table is not None]
    return PrefillCost(calls=tables[0], chunks=tables[-1], chunk_tokens=chunk_tokens) if tables else None
