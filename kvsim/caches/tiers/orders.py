"""In which order chunks leave: least recently used, or adaptive replacement.

Unlike `kvsim.caches`, whose policies hear of every access and choose among all keys, an order hears of a chunk when it
comes and when a request ends, and chooses among chunks that nobody reads or writes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol, TypeAlias

Key: TypeAlias = int
MayLeave: TypeAlias = Callable[[Key], bool]


class ChunkOrder(Protocol):
    """What a cache of chunks reports and asks."""

    def insert(self, key: Key) -> None:
        """Take in a chunk that came."""

    def missed(self, keys: Sequence[Key]) -> None:
        """Note that a request found these absent and will store them; once a request."""

    def finished(self, keys: Sequence[Key], reused: Collection[Key], inserted_only: Collection[Key]) -> None:
        """Note that a request has ended that saw these chunks, the first of its prompt first."""

    def take_victims(self, count: int, may_leave: MayLeave) -> list[Key] | None:
        """Take so many chunks out and return them; None, and nothing taken, if there are not as many."""


class LruOrder:
    """The chunk that came, or was seen by a request that ended, longest ago leaves first; of one prompt the tail."""

    def __init__(self, capacity: int) -> None:
        del capacity
        self._keys: OrderedDict[Key, None] = OrderedDict()

    def insert(self, key: Key) -> None:
        """Put a chunk last."""
        self._keys[key] = None

    def missed(self, keys: Sequence[Key]) -> None:
        """Learn nothing."""

    def finished(self, keys: Sequence[Key], reused: Collection[Key], inserted_only: Collection[Key]) -> None:
        """Put the chunks last, the head of the prompt behind its tail."""
        del reused, inserted_only
        for key in reversed(keys):
            if key in self._keys:
                self._keys.move_to_end(key)

    def take_victims(self, count: int, may_leave: MayLeave) -> list[Key] | None:
        """Take the first chunks that may leave."""
        victims = _first(self._keys, count, may_leave)
        if len(victims) < count:
            return None
        for key in victims:
            del self._keys[key]
        return victims


class ArcOrder:
    """Adaptive replacement: one list of chunks seen once, one of chunks used again, and ghosts of both.

    After N. Megiddo and D. Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003, as vLLM 0.32.0 has
    it (``kv_offload/cpu/policies/arc.py``): ghosts are learnt from when a request stores, and a chunk is promoted when
    a request that reused it ends.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._target = 0.0
        self._once: OrderedDict[Key, None] = OrderedDict()
        self._often: OrderedDict[Key, None] = OrderedDict()
        self._once_ghosts: OrderedDict[Key, None] = OrderedDict()
        self._often_ghosts: OrderedDict[Key, None] = OrderedDict()

    def insert(self, key: Key) -> None:
        """Put a chunk last of those seen once; it is no ghost any more."""
        self._once[key] = None
        self._once_ghosts.pop(key, None)
        self._often_ghosts.pop(key, None)

    def missed(self, keys: Sequence[Key]) -> None:
        """Shift the target towards the list whose ghost was asked for."""
        once, often = self._once_ghosts, self._often_ghosts
        for key in reversed(keys):
            if key in once:
                self._target = min(self._target + max(1, len(often) / len(once)), self._capacity)
                once.move_to_end(key)
            elif key in often:
                self._target = max(self._target - max(1, len(once) / len(often)), 0)
                often.move_to_end(key)

    def finished(self, keys: Sequence[Key], reused: Collection[Key], inserted_only: Collection[Key]) -> None:
        """Promote what was reused; refresh what was only stored."""
        for key in reversed(keys):
            if key in inserted_only:
                for chunks in (self._once, self._often):
                    if key in chunks:
                        chunks.move_to_end(key)
            elif key in reused and key in self._once:
                del self._once[key]
                self._often[key] = None
            elif key in reused and key in self._often:
                self._often.move_to_end(key)

    def take_victims(self, count: int, may_leave: MayLeave) -> list[Key] | None:
        """Take chunks from the list that is above its target, the oldest first."""
        once, often = (filter(may_leave, list(chunks)) for chunks in (self._once, self._often))
        victims: list[Key] = []
        size = len(self._once)
        for _ in range(count):
            victim = next(once, None) if size >= int(self._target) else None
            if victim is None:
                victim = next(often, None)
            if victim is None:
                victim = next(once, None)
            if victim is None:
                return None
            size -= victim in self._once
            victims.append(victim)
        for key in victims:
            chunks, ghosts = (self._once, self._once_ghosts) if key in self._once else (self._often, self._often_ghosts)
            del chunks[key]
            ghosts[key] = None
        for ghosts in (self._once_ghosts, self._often_ghosts):
            while len(ghosts) > self._capacity:
                ghosts.popitem(last=False)
        return victims


def _first(keys: OrderedDict[Key, None], count: int, may_leave: MayLeave) -> list[Key]:
    oldest: list[Key] = []
    candidates: Iterator[Key] = filter(may_leave, keys)
    while len(oldest) < count and (key := next(candidates, None)) is not None:
        oldest.append(key)
    return oldest


CHUNK_ORDERS: dict[str, Callable[[int], ChunkOrder]] = {"lru": LruOrder, "arc": ArcOrder}
"""Orders by name, each made with the chunks that fit."""
