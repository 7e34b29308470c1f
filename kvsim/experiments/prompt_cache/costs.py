"""What a prompt takes through a prompt cache, by the costs of a profile: bring back, compute the rest, keep."""

from __future__ import annotations

import math

import numpy as np

from kvsim.caches.prompts.accounting import Keeping, Reuse
from kvsim.errors import ScenarioError
from kvsim.experiments.base import prefill_or_reason, shape_of
from kvsim.experiments.prompt_cache.scenario import PromptCacheScenario
from kvsim.profile.profile import Profile
from kvsim.profile.tables import CostTable
from kvsim.types import BoolArray, FloatArray, IntArray

_UNKNOWN = CostTable(amount="tokens", amounts=(0.0,), time_s=((0.0,),)).model_copy(update={"time_s": ((math.nan,),)})
"""Of what a profile has no cost of."""


class PromptCosts:
    """The costs of one cell; nan where the profile has none. What is reused does not depend on them.

    Parameters
    ----------
    longest_tokens
        Of the prompts.

    Raises
    ------
    ScenarioError
        If the cell has a bandwidth of its own and the profile is a GPU's.
    """

    def __init__(self, profile: Profile, cell: PromptCacheScenario, longest_tokens: int) -> None:
        tiers = ("device", "host") if cell.cache.tier == "both" else (cell.cache.tier,)
        self._restore = {tier: profile.caches.get(f"restore.{tier}", _UNKNOWN) for tier in tiers}
        self._store = {tier: profile.caches.get(f"store.{tier}", _UNKNOWN) for tier in tiers}
        chunk_tokens = cell.prefill_chunk_tokens
        prefill = prefill_or_reason(cell, profile, chunk_tokens=chunk_tokens, longest_tokens=longest_tokens)
        self._prefill = None if isinstance(prefill, str) else prefill
        moved = [f"{what}.{tier}" for what in ("restore", "store") for tier in tiers]
        missing = [name for name in moved if name not in profile.caches]
        self.unknown: str | None = None
        """Why times are not known, a line; None where they are."""
        if missing:
            lacks = f"profile {profile.name} has no cost {', '.join(missing)}"
            self.unknown = f"Times are not known: {lacks}; {profile.advice}."
        elif isinstance(prefill, str):
            self.unknown = f"Times to first token are not known: {prefill}."
        self._more_token_s, self._least_token_s = _link_token_s(profile, cell)

    def compute_s(self, new_tokens: IntArray, cached_tokens: IntArray | int) -> tuple[FloatArray, BoolArray]:
        """Return the time of the calls of the model that compute each prompt's tokens after its cached ones, in chunks.

        With it comes whether a call lies outside what the profile measured; not where it says nothing.
        """
        if self._prefill is None or self.unknown is not None:
            return np.full(new_tokens.shape, np.nan), np.zeros(new_tokens.shape, dtype=bool)
        return self._prefill.times_s(new_tokens, cached_tokens)

    def restore_s(self, reuse: Reuse) -> float:
        """Return the time to bring back what a prompt reuses."""
        if reuse.tier is None:
            return 0.0
        table = self._restore[reuse.tier]
        return self._link_s(table, reuse.tokens) if reuse.tier == "host" else table.at_s(reuse.tokens)

    def keep_s(self, keeping: Keeping, num_tokens: int) -> float:
        """Return the time to keep a prompt and to move what leaves the device for the host."""
        moved = [move.tokens for move in keeping.moves if move.to == "host"]
        if keeping.tier == "host":
            moved.append(num_tokens)
        time_s = self._store["device"].at_s(num_tokens) if keeping.tier == "device" else 0.0
        return time_s + sum(self._link_s(self._store["host"], tokens) for tokens in moved)

    def is_restored_outside(self, reuse: Reuse) -> bool:
        """Return whether a prompt reuses more than the profile measured; not where it says nothing."""
        return self.unknown is None and reuse.tier is not None and reuse.tokens > self._restore[reuse.tier].amounts[-1]

    def _link_s(self, table: CostTable, num_tokens: int) -> float:
        """Return what tokens take over the cell's own link, never less than their bytes do."""
        return max(table.at_s(num_tokens) + self._more_token_s * num_tokens, self._least_token_s * num_tokens)


def _link_token_s(profile: Profile, cell: PromptCacheScenario) -> tuple[float, float]:
    """Return what a token takes over the cell's emulated link beyond the profile's tables, and what its bytes take.

    Both are 0 where the link is real: its tables are all that is known.
    """
    more_s, stated = slower_s(profile, cell), profile.link.stated_bandwidth_bytes_per_s
    if not profile.link.emulated or stated is None:
        return 0.0, 0.0
    token_bytes = shape_of(cell).num_layers * shape_of(cell).page_bytes(1)
    return token_bytes * more_s, token_bytes / (cell.cache.link_bytes_per_s or stated)


def slower_s(profile: Profile, cell: PromptCacheScenario) -> float:
    """Return the seconds of a byte that the cell's own bandwidth adds to the profile's.

    Raises
    ------
    ScenarioError
        If the cell has one and the profile is a GPU's.
    """
    own = cell.cache.link_bytes_per_s
    if own is None:
        return 0.0
    stated = profile.link.stated_bandwidth_bytes_per_s
    if not profile.link.emulated or profile.device != "cpu" or stated is None:
        raise ScenarioError(
            f"{cell.name}: cache.link_bytes_per_s is of a CPU's emulated link; {profile.name}'s is real"
        )
    return 1 / own - 1 / stated
