"""What a prompt takes through a prompt cache, by the costs of a profile: bring back, compute the rest, keep."""

from __future__ import annotations

from kvsim.caches.prompts.accounting import Keeping, Reuse
from kvsim.errors import ScenarioError
from kvsim.experiments.base import shape_of
from kvsim.experiments.prompt_cache.scenario import PromptCacheScenario
from kvsim.profile.profile import Profile
from kvsim.profile.tables import CostTable

FORWARD = "forward@1"


class PromptCosts:
    """The costs of one cell.

    Raises
    ------
    CalibrationError
        If the profile lacks a cost that the cell's tiers need.
    ScenarioError
        If the cell has a bandwidth of its own and the profile is a GPU's.
    """

    def __init__(self, profile: Profile, cell: PromptCacheScenario) -> None:
        tiers = ("device", "host") if cell.cache.tier == "both" else (cell.cache.tier,)
        self._restore = {tier: profile.cache_cost(f"restore.{tier}") for tier in tiers}
        self._store = {tier: profile.cache_cost(f"store.{tier}") for tier in tiers}
        self._forward = profile.cache_cost(FORWARD)
        self._prefill = profile.prefill or self._forward
        self._chunk_tokens = cell.prefill_chunk_tokens
        shape = shape_of(cell)
        self._slower_s = shape.num_layers * shape.page_bytes(1) * slower_s(profile, cell)

    def compute_s(self, new_tokens: int, cached_tokens: int) -> float:
        """Return the time of the calls of the model that compute tokens after cached ones, chunk by chunk."""
        time_s = 0.0
        while new_tokens > 0:
            chunk = min(new_tokens, self._chunk_tokens)
            time_s += self._table(chunk, cached_tokens).at_s(chunk, cached_tokens=cached_tokens)
            new_tokens, cached_tokens = new_tokens - chunk, cached_tokens + chunk
        return time_s

    def restore_s(self, reuse: Reuse) -> float:
        """Return the time to bring back what a prompt reuses."""
        if reuse.tier is None:
            return 0.0
        slower_s = self._slower_s * reuse.tokens if reuse.tier == "host" else 0.0
        return self._restore[reuse.tier].at_s(reuse.tokens) + slower_s

    def keep_s(self, kept: Keeping, num_tokens: int) -> float:
        """Return the time to keep a prompt and to move what leaves the device for the host."""
        moved = [move.tokens for move in kept.moves if move.to == "host"]
        if kept.tier == "host":
            moved.append(num_tokens)
        time_s = self._store["device"].at_s(num_tokens) if kept.tier == "device" else 0.0
        return time_s + sum(self._store["host"].at_s(tokens) + self._slower_s * tokens for tokens in moved)

    def is_outside(self, num_tokens: int, reuse: Reuse) -> bool:
        """Return whether a prompt asks for more than the profile measured."""
        last_chunk = min(num_tokens - reuse.tokens, self._chunk_tokens)
        before = num_tokens - last_chunk
        computed = _reaches(self._table(last_chunk, before), last_chunk, before)
        return not computed or (reuse.tier is not None and reuse.tokens > self._restore[reuse.tier].amounts[-1])

    def _table(self, new_tokens: int, cached_tokens: int) -> CostTable:
        """Return the table that was measured nearest: calls of a few tokens, or long chunks after long contexts."""
        is_few = new_tokens < self._prefill.amounts[0]
        return self._forward if is_few or _reaches(self._forward, new_tokens, cached_tokens) else self._prefill


def _reaches(table: CostTable, amount: int, cached_tokens: int) -> bool:
    return amount <= table.amounts[-1] and cached_tokens <= table.columns[-1]


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
