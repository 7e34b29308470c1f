"""Which units are stored, prompt by prompt: the accounting that simulator and engine both keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvsim.caches import Cache, find_cache_policy
from kvsim.types import IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the units of one prompt met in the store, an entry a unit, in the order in which it reads them."""

    units: tuple[int, ...]
    is_hit: tuple[bool, ...]
    victims: tuple[int | None, ...]
    """The unit that left for this one; it may be one that the same prompt has just read."""
    is_let_in: tuple[bool, ...]
    """Whether the unit had a place after its own access."""

    @property
    def num_hits(self) -> int:
        """Units that were stored."""
        return sum(self.is_hit)

    @property
    def num_evicted(self) -> int:
        """Units that left."""
        return sum(victim is not None for victim in self.victims)


class ModuleStoreState:
    """A store of whole units with a budget and a policy (`kvsim.caches.Cache`).

    Parameters
    ----------
    policy
        A name in `kvsim.caches.CACHE_POLICIES`.
    budget_units
        Units that fit, whatever their size.
    num_units
        Units of the layout.
    future
        Every unit that will be read, in order: given to oracles alone.

    Examples
    --------
    >>> state = ModuleStoreState("lru", budget_units=2, num_units=3)
    >>> state.serve([0, 1]).num_hits, state.serve([0, 2]).victims, sorted(state.stored)
    (0, (None, 1), [0, 2])
    """

    def __init__(
        self, policy: str, *, budget_units: int, num_units: int, future: Sequence[int] | IntArray = (), seed: int = 0
    ) -> None:
        is_oracle = find_cache_policy(policy).kind == "oracle"
        self._cache = Cache(
            policy, budget_units, num_keys=num_units, seed=seed, future=list(future) if is_oracle else None
        )
        self.stored: set[int] = set()
        """Units stored now."""

    def serve(self, units: Sequence[int]) -> Served:
        """Read the units of one prompt, one after another."""
        done = self._cache.access(list(units))
        victims = tuple(
            int(victim) if leaves else None for victim, leaves in zip(done.victims, done.evicts, strict=True)
        )
        is_let_in = tuple(bool(slot >= 0) for slot in done.slots)
        for unit, victim, enters in zip(units, victims, is_let_in, strict=True):
            if victim is not None:
                self.stored.discard(victim)
            if enters:
                self.stored.add(unit)
        return Served(
            units=tuple(units), is_hit=tuple(bool(hit) for hit in done.hits), victims=victims, is_let_in=is_let_in
        )
