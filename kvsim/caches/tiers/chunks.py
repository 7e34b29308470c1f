"""Which chunks a tier has, which are being written to it, and who reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from kvsim.caches.tiers.orders import CHUNK_ORDERS, Key
from kvsim.errors import CapacityError

_WRITING = -1
"""In place of readers: the chunk is on its way."""


class Presence(Enum):
    """Where a chunk is."""

    ABSENT = 0
    COMING = 1
    """Being written: it is there soon."""
    PRESENT = 2


@dataclass(slots=True)
class Access:
    """What one request has seen of a tier so far."""

    places: dict[Key, int] = field(default_factory=dict)
    """Chunks that it offered or read, by their place in its prompt."""
    inserted: set[Key] = field(default_factory=set)
    reused: set[Key] = field(default_factory=set)
    missed: set[Key] = field(default_factory=set)

    def see(self, key: Key, place: int) -> None:
        """Note a chunk."""
        self.places.setdefault(key, place)

    def reuse(self, key: Key) -> None:
        """Note that a chunk served the request, unless it was stored by it."""
        if key not in self.inserted:
            self.reused.add(key)


class ChunkCache:
    """A tier of `capacity` chunks.

    Parameters
    ----------
    order
        A name in `CHUNK_ORDERS`.

    Examples
    --------
    >>> cache, first, second = ChunkCache(2, "lru"), Access(), Access()
    >>> cache.offer([10, 11], 0, first), cache.presence(10).name
    ([10, 11], 'COMING')
    >>> cache.offer([12], 0, second) is None
    True
    >>> cache.written([10, 11])
    >>> cache.offer([12], 0, second), cache.presence(10).name, cache.presence(11).name
    ([12], 'ABSENT', 'PRESENT')
    """

    def __init__(self, capacity: int, order: str) -> None:
        if capacity < 1:
            raise CapacityError("a tier that holds no chunk keeps nothing: make it larger, or the chunk smaller")
        self.capacity = capacity
        self.evicted: list[Key] = []
        """Chunks that left, in order, until somebody clears the list."""
        self._order = CHUNK_ORDERS[order](capacity)
        self._readers: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._readers)

    def presence(self, key: Key) -> Presence:
        """Return where a chunk is; changes nothing."""
        readers = self._readers.get(key)
        if readers is None:
            return Presence.ABSENT
        return Presence.COMING if readers == _WRITING else Presence.PRESENT

    def offer(self, keys: Sequence[Key], first_place: int, access: Access) -> list[Key] | None:
        """Make room for those of these chunks that are absent, and return them: they are being written now.

        Returns
        -------
        list of int or None
            None, and nothing changes but what the order learns, if there is not enough room for all.
        """
        absent = [key for key in keys if key not in self._readers]
        new_misses = [key for key in absent if key not in access.missed]
        if new_misses:
            self._order.missed(new_misses)
            access.missed.update(new_misses)
        for place, key in enumerate(keys, first_place):
            presence = self.presence(key)
            if presence is not Presence.COMING:
                access.see(key, place)
            if presence is Presence.PRESENT:
                access.reuse(key)
        if not self._make_room(len(absent), set(keys)):
            return None
        for key in absent:
            self._readers[key] = _WRITING
            self._order.insert(key)
        access.inserted.update(absent)
        return absent

    def written(self, keys: Sequence[Key]) -> None:
        """Note that chunks have arrived."""
        for key in keys:
            self._readers[key] = 0

    def read(self, keys: Sequence[Key], first_place: int, access: Access) -> None:
        """Keep present chunks in place while they are read."""
        for place, key in enumerate(keys, first_place):
            self._readers[key] += 1
            access.see(key, place)
            access.reuse(key)

    def was_read(self, keys: Sequence[Key]) -> None:
        """Let chunks go that were being read."""
        for key in keys:
            self._readers[key] -= 1

    def finished(self, access: Access) -> None:
        """Note that a request has ended."""
        keys = sorted(access.places, key=access.places.__getitem__)
        self._order.finished(keys, access.reused, access.inserted - access.reused)

    def _make_room(self, count: int, protected: set[Key]) -> bool:
        missing = count - (self.capacity - len(self._readers))
        if missing <= 0:
            return True
        victims = self._order.take_victims(missing, lambda key: self._readers[key] == 0 and key not in protected)
        if victims is None:
            return False
        for key in victims:
            del self._readers[key]
        self.evicted += victims
        return True

    def _check(self) -> None:
        assert len(self._readers) <= self.capacity, "more chunks than fit"
        assert min(self._readers.values(), default=0) >= _WRITING
