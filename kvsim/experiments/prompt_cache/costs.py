"""What a prompt takes through a prompt cache, by the costs of a profile: bring back, compute the rest, keep."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kvsim.caches.prompts.accounting import Keeping, Reuse
from kvsim.errors import ScenarioError
from kvsim.experiments.base import call_problem_of, shape_of
from kvsim.experiments.prompt_cache.scenario import PromptCacheScenario
from kvsim.profile.profile import Profile
from kvsim.profile.tables import CostTable

FORWARD = "forward@1"

_UNKNOWN = CostTable(amount="tokens", amounts=(0.0,), batches=(1.0,), time_s=((0.0,),)).model_copy(
    update={"time_s": ((math.nan,),)}
)
"""Of what a profile has no cost of."""


def _unknown(
    profile: Profile, cell: PromptCacheScenario, tiers: Sequence[str], calls: Sequence[CostTable], longest_tokens: int
) -> str | None:
    needed = [FORWARD, *(f"{what}.{tier}" for what in ("restore", "store") for tier in tiers)]
    missing = [name for name in needed if name not in profile.caches]
    if missing:
        return f"Times are not known: profile {profile.name} has no cost {', '.join(missing)}; {profile.advice}."
    chunk = min(cell.prefill_chunk_tokens, longest_tokens)
    problem = next(filter(None, (call_problem_of(cell, profile, table, [(chunk, 0)]) for table in calls)), None)
    return None if problem is None else f"Times to first token are not known: {problem}."


class PromptCosts:
    """The costs of one cell. What a profile cannot tell is nan: what is reused follows without it.

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
        self._forward = profile.caches.get(FORWARD, _UNKNOWN)
        self._prefill = profile.prefill or self._forward
        self._chunk_tokens = cell.prefill_chunk_tokens
        self.unknown = _unknown(profile, cell, tiers, (self._forward, self._prefill), longest_tokens)
        """Why times are not known, a line; None where they are."""
        if self.unknown is not None:
            self._forward = self._prefill = _UNKNOWN
        self._more_token_s, self._least_token_s = _link_token_s(profile, cell)

    def compute_s(self, new_tokens: int, cached_tokens: int) -> float:
        """Return the time of the calls of the model that compute tokens after cached ones, chunk by chunk."""
        time_s = 0.0
        while new_tokens > 0:
            chunk = min(new_tokens, self._chunk_tokens)
            time_s += self._table(chunk, cached_tokens).at_s(chunk, cached_tokens)
            new_tokens, cached_tokens = new_tokens - chunk, cached_tokens + chunk
        return time_s

    def restore_s(self, reuse: Reuse) -> float:
        """Return the time to bring back what a prompt reuses."""
        if reuse.tier is None:
            return 0.0
        table = self._restore[reuse.tier]
        return self._link_s(table, reuse.tokens) if reuse.tier == "host" else table.at_s(reuse.tokens, 1)

    def keep_s(self, kept: Keeping, num_tokens: int) -> float:
        """Return the time to keep a prompt and to move what leaves the device for the host."""
        moved = [move.tokens for move in kept.moves if move.to == "host"]
        if kept.tier == "host":
            moved.append(num_tokens)
        time_s = self._store["device"].at_s(num_tokens, 1) if kept.tier == "device" else 0.0
        return time_s + sum(self._link_s(self._store["host"], tokens) for tokens in moved)

    def is_outside(self, num_tokens: int, reuse: Reuse) -> bool:
        """Return whether a prompt asks for more than the profile measured; not where it says nothing."""
        if self.unknown is not None:
            return False
        last_chunk = min(num_tokens - reuse.tokens, self._chunk_tokens)
        before = num_tokens - last_chunk
        computed = _reaches(self._table(last_chunk, before), last_chunk, before)
        return not computed or (reuse.tier is not None and reuse.tokens > self._restore[reuse.tier].amounts[-1])

    def _link_s(self, table: CostTable, num_tokens: int) -> float:
        """Return what tokens take over the cell's own link, never less than their bytes do."""
        return max(table.at_s(num_tokens, 1) + self._more_token_s * num_tokens, self._least_token_s * num_tokens)

    def _table(self, new_tokens: int, cached_tokens: int) -> CostTable:
        """Return the table that was measured nearest: calls of a few tokens, or long chunks after long contexts."""
        is_few = new_tokens < self._prefill.amounts[0]
        return self._forward if is_few or _reaches(self._forward, new_tokens, cached_tokens) else self._prefill


def _link_token_s(profile: Profile, cell: PromptCacheScenario) -> tuple[float, float]:
    """Return what a token takes over the cell's emulated link beyond the profile's tables, and what its bytes take.

    Both are 0 where the link is real: its tables are all that is known.
    """
    more_s, stated = slower_s(profile, cell), profile.link.stated_bandwidth_bytes_per_s
    if not profile.link.emulated or stated is None:
        return 0.0, 0.0
    token_bytes = shape_of(cell).num_layers * shape_of(cell).page_bytes(1)
    return token_bytes * more_s, token_bytes / (cell.cache.link_bytes_per_s or stated)


def _reaches(table: CostTable, amount: int, batch: int) -> bool:
    return amount <= table.amounts[-1] and batch <= table.batches[-1]


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
