"""Plain versions of the compiled cache policies: short enough to be believed, and what the kernels are tested against.

``access(key)`` returns whether it hit, whether the key is in afterwards, and the key that left, or None.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple


class Outcome(NamedTuple):
    """What one access did."""

    hit: bool
    is_in: bool
    victim: int | None


HIT = Outcome(True, True, None)


class Fifo:
    """The key that came first leaves."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.keys: OrderedDict[int, None] = OrderedDict()

    def access(self, key: int) -> Outcome:
        """Access one key."""
        if key in self.keys:
            return HIT
        victim = self.keys.popitem(last=False)[0] if len(self.keys) == self.capacity else None
        self.keys[key] = None
        return Outcome(False, True, victim)


class Lru(Fifo):
    """The key accessed longest ago leaves."""

    def access(self, key: int) -> Outcome:
        """Access one key."""
        outcome = super().access(key)
        self.keys.move_to_end(key)
        return outcome


class SecondTouch(Lru):
    """LRU that a key enters when it is met for the second time, however long ago the first was."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.met: set[int] = set()

    def access(self, key: int) -> Outcome:
        """Access one key."""
        if key not in self.met:
            self.met.add(key)
            return Outcome(False, False, None)
        return super().access(key)


class Lfu:
    """The key with the fewest accesses since it came leaves, among equals the one accessed longest ago."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rank: dict[int, tuple[int, int]] = {}
        self.now = 0

    def access(self, key: int) -> Outcome:
        """Access one key."""
        self.now += 1
        if key in self.rank:
            self.rank[key] = (self.rank[key][0] + 1, self.now)
            return HIT
        victim = None
        if len(self.rank) == self.capacity:
            victim = min(self.rank, key=self.rank.__getitem__)
            del self.rank[victim]
        self.rank[key] = (1, self.now)
        return Outcome(False, True, victim)


class Random:
    """A key drawn uniformly leaves; its slot is the newcomer's."""

    def __init__(self, capacity: int, seed: int = 0) -> None:
        self.capacity = capacity
        self.keys: list[int] = []
        self.drawn = seed

    def access(self, key: int) -> Outcome:
        """Access one key."""
        if key in self.keys:
            return HIT
        if len(self.keys) < self.capacity:
            self.keys.append(key)
            return Outcome(False, True, None)
        slot = self._draw() % self.capacity
        victim, self.keys[slot] = self.keys[slot], key
        return Outcome(False, True, victim)

    def _draw(self) -> int:
        """Return the next number of splitmix64."""
        word = 2**64 - 1
        self.drawn = (self.drawn + 0x9E3779B97F4A7C15) & word
        mixed = ((self.drawn ^ (self.drawn >> 30)) * 0xBF58476D1CE4E5B9) & word
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & word
        return mixed ^ (mixed >> 31)


class Belady:
    """The key needed again last leaves; of those never needed again, the one accessed latest."""

    def __init__(self, capacity: int, future: Sequence[int]) -> None:
        self.capacity = capacity
        self.future = list(future)
        self.last: dict[int, int] = {}
        self.now = 0

    def access(self, key: int) -> Outcome:
        """Access one key, the next of the future."""
        hit = key in self.last
        victim = None
        if not hit and len(self.last) == self.capacity:
            victim = max(self.last, key=self._rank)
            del self.last[victim]
        self.last[key] = self.now
        self.now += 1
        return Outcome(hit, True, victim)

    def _rank(self, key: int) -> tuple[float, int]:
        try:
            return self.future.index(key, self.now), 0
        except ValueError:
            return float("inf"), self.last[key]
