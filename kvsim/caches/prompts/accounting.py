"""The accounting of a prompt cache: which prompts' keys and values are on which tier, and how much a new prompt reuses.

One object decides in the simulator and in the engine, request by request; it holds no bytes and knows no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvsim.caches.prefix.evictions import make_eviction
from kvsim.caches.prompts.token_tree import TokenTree
from kvsim.errors import CapacityError, PolicyError
from kvsim.scenario.toml import nearest
from kvsim.types import IntArray, Tier

PROMPT_POLICIES = ("lru", "fifo", "lfu", "sieve")
"""Policies that rank prompts of any size; ARC, S3-FIFO and `kvsim.caches` count places, and a prompt is not one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierBudget:
    """What one tier may hold, and who leaves it first."""

    tier: Tier
    budget_bytes: int | None = None
    """None for no limit."""
    policy: str = "lru"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """What is reused of a kept prompt."""

    tokens: int
    """Tokens that need no prefill: those shared, but never the prompt's last one, whose logits are wanted."""
    shared_tokens: int
    entry: int | None
    """Number of the kept prompt; None where nothing is reused."""
    tier: Tier | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A kept prompt leaves its tier."""

    entry: int
    tokens: int
    tier: Tier
    to: Tier | None
    """Where it goes; None where it is given up."""
    is_replaced: bool = False
    """True where a longer prompt that begins with it takes its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What keeping a prompt did."""

    entry: int | None
    """Number of the prompt; None where it was not kept: all of it is there already, or no tier could hold it."""
    tier: Tier | None
    moves: tuple[Move, ...]
    """What left before, in order."""


class PromptCacheState:
    """Prompts of any length on tiers with a budget each, found by the longest shared beginning.

    A new prompt is kept whole on the first tier that can hold it; what must leave there goes to the next tier, or is
    given up. A prompt that begins with a kept one takes its place, and one that a kept one begins with is not kept: so
    no kept prompt is the beginning of another. Of equal matches the earlier tier's is taken, then the latest.

    Parameters
    ----------
    token_bytes
        Keys and values of one token in all layers.
    tiers
        The nearest first, as in device, host.
    least_tokens
        Reuse no fewer tokens: where a transfer costs more than computing a few.

    Raises
    ------
    CapacityError
        If a tier cannot hold one token, or there are no tiers or two alike.
    PolicyError
        If there is no such policy.

    Examples
    --------
    >>> import numpy as np
    >>> state = PromptCacheState(10, [TierBudget(tier="device", budget_bytes=90)])
    >>> state.request(np.array([1, 2, 3, 4]))[0].tokens, state.request(np.array([1, 2, 3, 5, 6]))[0].tokens
    (0, 3)
    >>> [move.entry for move in state.request(np.array([1, 2, 3, 5, 6, 7]))[1].moves]  # 5 tokens in place of 4 and 5
    [1, 0]
    """

    def __init__(self, token_bytes: int, tiers: Sequence[TierBudget], *, least_tokens: int = 1) -> None:
        names = [tier.tier for tier in tiers]
        if not tiers or len(set(names)) < len(names):
            raise CapacityError(f"a prompt cache needs a tier, and each once; found {', '.join(names) or 'none'}")
        self._token_bytes = token_bytes
        self._least_tokens = max(1, least_tokens)
        self._shelves = [_Shelf(tier, token_bytes) for tier in tiers]
        self._prompts: dict[int, IntArray] = {}
        self._num_entries = 0

    def __len__(self) -> int:
        """Return how many prompts are kept."""
        return len(self._prompts)

    def used_bytes(self, tier: Tier) -> int:
        """Return the bytes of all prompts kept on a tier."""
        return sum(shelf.used_bytes for shelf in self._shelves if shelf.tier == tier)

    def request(self, tokens: IntArray) -> tuple[Reuse, Keeping]:
        """Find what a prompt may reuse, then keep it."""
        reuse = self.find(tokens)
        return reuse, self.keep(tokens, reuse)

    def find(self, tokens: IntArray) -> Reuse:
        """Return what of the kept prompts a new one reuses, and let the policy know."""
        best, shelf, entry = 0, None, None
        for candidate in self._shelves:
            shared, closest = candidate.tree.longest(tokens)
            if shared > best:
                best, shelf, entry = shared, candidate, closest
        reused = min(best, tokens.size - 1)
        if shelf is None or entry is None or reused < self._least_tokens:
            return Reuse(tokens=0, shared_tokens=best, entry=None, tier=None)
        shelf.touch(entry)
        return Reuse(tokens=reused, shared_tokens=best, entry=entry, tier=shelf.tier)

    def keep(self, tokens: IntArray, reuse: Reuse) -> Keeping:
        """Keep a prompt of which `found` was just found, and make room for it."""
        place = self._first_that_holds(0, tokens.size)
        if place is None or reuse.shared_tokens == tokens.size:
            return Keeping(entry=None, tier=None, moves=())
        moves = self._replace(tokens)
        moves += self._make_room(place, tokens.size)
        entry = self._num_entries
        self._num_entries += 1
        self._prompts[entry] = tokens
        self._shelves[place].put(entry, tokens)
        return Keeping(entry=entry, tier=self._shelves[place].tier, moves=tuple(moves))

    def _replace(self, tokens: IntArray) -> list[Move]:
        """Take out the kept prompt that `tokens` begins with; there is one at most."""
        for shelf in self._shelves:
            shared, entry = shelf.tree.longest(tokens)
            if entry is not None and shared == self._prompts[entry].size:
                shelf.take(entry, self._prompts.pop(entry))
                return [Move(entry=entry, tokens=shared, tier=shelf.tier, to=None, is_replaced=True)]
        return []

    def _make_room(self, place: int, num_tokens: int) -> list[Move]:
        """Let prompts leave a tier until `num_tokens` more fit, each to the next tier that can hold it."""
        shelf, moves = self._shelves[place], []
        while not shelf.has_room(num_tokens):
            entry = shelf.victim()
            tokens = self._prompts[entry]
            shelf.take(entry, tokens)
            below = self._first_that_holds(place + 1, tokens.size)
            if below is None:
                del self._prompts[entry]
            else:
                moves += self._make_room(below, tokens.size)
                self._shelves[below].put(entry, tokens)
            to = None if below is None else self._shelves[below].tier
            moves.append(Move(entry=entry, tokens=tokens.size, tier=shelf.tier, to=to))
        return moves

    def _first_that_holds(self, place: int, num_tokens: int) -> int | None:
        fits = (number for number in range(place, len(self._shelves)) if self._shelves[number].can_hold(num_tokens))
        return next(fits, None)


class _Shelf:
    """One tier: the tree of its prompts, its policy, and the bytes in use."""

    def __init__(self, budget: TierBudget, token_bytes: int) -> None:
        if budget.policy not in PROMPT_POLICIES:
            known = f"{nearest(budget.policy, PROMPT_POLICIES)}; known are {', '.join(PROMPT_POLICIES)}"
            raise PolicyError(f"no eviction policy of prompts is called {budget.policy!r}{known}")
        if budget.budget_bytes is not None and budget.budget_bytes < token_bytes:
            raise CapacityError(
                f"tier {budget.tier}: {budget.budget_bytes:,} bytes hold no token, which takes {token_bytes:,}"
            )
        self.tier: Tier = budget.tier
        self.tree = TokenTree()
        self.used_bytes = 0
        self._budget_bytes = budget.budget_bytes
        self._token_bytes = token_bytes
        self._eviction = make_eviction(budget.policy, 1)  # none of these policies asks how many places there are

    def can_hold(self, num_tokens: int) -> bool:
        return self._budget_bytes is None or num_tokens * self._token_bytes <= self._budget_bytes

    def has_room(self, num_tokens: int) -> bool:
        return self.can_hold(num_tokens + self.used_bytes // self._token_bytes)

    def touch(self, entry: int) -> None:
        self._eviction.hit(entry, 0)
        self._eviction.released(entry)

    def put(self, entry: int, tokens: IntArray) -> None:
        self.tree.insert(entry, tokens)
        self.used_bytes += tokens.size * self._token_bytes
        self._eviction.enter(entry, 0)
        self._eviction.released(entry)

    def take(self, entry: int, tokens: IntArray) -> None:
        self.tree.remove(entry)
        self.used_bytes -= tokens.size * self._token_bytes
        self._eviction.evicted(entry)

    def victim(self) -> int:
        entry = self._eviction.victim(lambda _: True)
        assert entry is not None, "a tier that is full has nothing to give up"
        return entry


PromptBooks = PromptCacheState
"""The name before 0.2; it goes with the next release."""
