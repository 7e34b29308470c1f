"""A keyed store with a budget and an eviction policy: who is in which slot, access by access."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvsim.caches.keys import KeyTable
from kvsim.caches.registry import find_cache_policy
from kvsim.errors import CapacityError, PolicyError, ScenarioError
from kvsim.kernels.replay.contract import MAX_IDS, NONE, NOT_ADMITTED
from kvsim.kernels.replay.slots import assign_slots
from kvsim.types import BoolArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Accesses:
    """What a batch of accesses did, one entry an access, in order."""

    hits: BoolArray
    slots: IntArray
    """The slot that holds the key after its access, 0 to ``capacity - 1``; -1 where it was not let in.

    A later access of the same batch may take the slot; `Cache.slots_of` says who holds what in the end.
    """
    evicts: BoolArray
    """Whether a key left for this access's."""
    victims: IntArray
    """The key that left, where `evicts`; 0 elsewhere."""


class Cache:
    """A store of `capacity` keys; it says what happens to each and holds no values itself.

    Whoever keeps values keeps them by slot: copy a value in where an access is no hit and its slot is not -1.

    Parameters
    ----------
    policy
        A name in `CACHE_POLICIES`.
    capacity
        Keys that fit.
    num_keys
        Where keys are integers below this, they are taken as they are; else any int64 is a key and costs a look-up
        in a table.
    seed
        Of a policy that draws.
    future
        All keys that will be accessed, in order: oracles need it, others are not given it.

    Raises
    ------
    CapacityError
        If nothing fits.
    ScenarioError
        If there is no such policy, or an oracle lacks its future.

    Examples
    --------
    >>> cache = Cache("lru", capacity=2)
    >>> done = cache.access([10, 20, 10, 30])
    >>> done.hits.tolist(), done.slots.tolist(), done.victims[done.evicts].tolist()
    ([False, False, True, False], [0, 1, 0, 1], [20])
    >>> cache.slots_of([10, 20, 30]).tolist()
    [0, -1, 1]
    """

    def __init__(
        self,
        policy: str,
        capacity: int,
        *,
        num_keys: int | None = None,
        seed: int = 0,
        future: ArrayLike | None = None,
    ) -> None:
        entry = check_cache(policy, capacity)
        if num_keys is not None and not 1 <= num_keys <= MAX_IDS:
            raise CapacityError(f"num_keys is {num_keys:,}: from 1 to {MAX_IDS:,} can be distinguished")
        if (entry.kind == "oracle") != (future is not None):
            need = "needs the whole trace as `future`" if future is None else "is no oracle and may not see the future"
            raise ScenarioError(f"cache policy {policy!r} {need}")
        self.policy = policy
        self.capacity = capacity
        self._num_keys = num_keys
        self._keys = None if num_keys is not None else KeyTable()
        known: dict[str, Any] = {"seed": seed} if entry.takes_seed else {}
        self._future: NDArray[np.uint32] | None = None
        self._done = 0
        if future is not None:
            self._future = self._ids_of(as_keys(future))
            known = {"future": self._future, "num_ids": max(1, self._num_ids)}
        self._state = entry.make_state(capacity, **known)
        self._access = entry.access
        self._where = np.full(0, NONE)
        self._slot_of = np.zeros(0, dtype=np.int64)
        self._used = np.zeros(1, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._used[0])

    def access(self, keys: ArrayLike) -> Accesses:
        """Access `keys` one after another, ``[n]``.

        Raises
        ------
        PolicyError
            If an oracle meets another key than `future` has, or a key is not below `num_keys`.
        """
        ids = self._ids_of(as_keys(keys))
        self._check_future(ids)
        self._make_room()
        hits = np.zeros(ids.size, dtype=np.bool_)
        victims = np.full(ids.size, NONE)
        slots = np.empty(ids.size, dtype=np.int64)
        self._access(self._where, self._state, ids, hits, victims)
        assign_slots(self._slot_of, self._used, ids, hits, victims, slots)
        evicts = victims < NOT_ADMITTED
        left = np.zeros(ids.size, dtype=np.int64)
        left[evicts] = victims[evicts] if self._keys is None else self._keys.keys[victims[evicts]]
        return Accesses(hits=hits, slots=slots, evicts=evicts, victims=left)

    def slots_of(self, keys: ArrayLike) -> IntArray:
        """Return the slot that holds each key now, -1 of those that are not in; no access is counted."""
        ids = self._ids_of(as_keys(keys))
        self._make_room()
        slots: IntArray = self._slot_of[ids]
        return slots

    @property
    def _num_ids(self) -> int:
        return self._num_keys if self._keys is None else self._keys.num_ids  # type: ignore[return-value]

    def _ids_of(self, keys: IntArray) -> NDArray[np.uint32]:
        if self._keys is not None:
            return self._keys.ids_of(keys)
        assert self._num_keys is not None
        if keys.size and not (int(keys.min()) >= 0 and int(keys.max()) < self._num_keys):
            raise PolicyError(f"keys from {keys.min()} to {keys.max()}: this cache takes 0 to {self._num_keys - 1}")
        return keys.astype(np.uint32)

    def _check_future(self, ids: NDArray[np.uint32]) -> None:
        if self._future is None:
            return
        if not np.array_equal(self._future[self._done : self._done + ids.size], ids):
            raise PolicyError(
                f"cache policy {self.policy!r}: `future` has another key at access {self._done} or after it"
            )
        self._done += ids.size

    def _make_room(self) -> None:
        if self._where.size < self._num_ids:
            room = self._num_ids if self._keys is None else max(self._num_ids, 2 * self._where.size)
            self._where = _extended(self._where, room, NONE)
            self._slot_of = _extended(self._slot_of, room, -1)


def check_cache(policy: str, capacity: int) -> Any:
    """Return the policy called `policy`, if it and `capacity` are such as a cache can be made of."""
    if not isinstance(policy, str) or not isinstance(capacity, Integral):
        raise ScenarioError(f"a cache needs a policy's name and a whole number of keys, found {policy!r}, {capacity!r}")
    entry = find_cache_policy(policy)
    if not 1 <= capacity <= MAX_IDS // 2:
        raise CapacityError(f"a cache of {capacity:,} keys: from 1 to {MAX_IDS // 2:,} are possible")
    return entry


def as_keys(keys: ArrayLike) -> IntArray:
    """Return `keys` as int64, unsigned ones by their bits.

    Raises
    ------
    ScenarioError
        If they are no flat list of integers.
    """
    key_array = np.asarray(keys)
    if key_array.ndim != 1 or (key_array.size and key_array.dtype.kind not in "iu"):
        raise ScenarioError(f"keys must be a flat array of integers, not {key_array.dtype} of shape {key_array.shape}")
    return np.ascontiguousarray(key_array.astype(np.int64))


def _extended(array: NDArray[Any], size: int, fill: Any) -> NDArray[Any]:
    larger = np.full(size, fill, dtype=array.dtype)
    larger[: array.size] = array
    return larger
