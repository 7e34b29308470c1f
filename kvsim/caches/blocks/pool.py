"""The pool of blocks: free or held, cached or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvsim.caches.blocks.free_queue import FreeQueue
from kvsim.caches.blocks.index import PrefixIndex
from kvsim.errors import CapacityError

NULL_BLOCK = 0
"""Block 0 is never handed out: a pool of N blocks has N - 1 that can be used."""


class BlockPool:
    """A pool of `num_blocks` blocks, the null block included.

    A block is *held* by a number of requests or *free*. A block that holds a full run of tokens is *cached*: it has a
    key and can be hit. Free blocks stay cached until they are handed out again; only then they are evicted.

    Parameters
    ----------
    num_blocks
        What vLLM calls ``num_gpu_blocks``.

    Examples
    --------
    >>> pool = BlockPool(3)
    >>> block = pool.take()
    >>> pool.cache(block, key=7)
    >>> pool.release([block])
    >>> pool.num_free, pool.cached(7), [pool.take(), pool.take()], pool.evicted
    (2, 1, [2, 1], [7])
    """

    __slots__ = ("evicted", "free", "handed_out", "holders", "index", "keys", "num_blocks", "stored")

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 2:
            raise CapacityError(
                f"a pool of {num_blocks} blocks has none to hand out: give 2 or more, one is never used"
            )
        self.num_blocks = num_blocks
        self.free = FreeQueue(range(NULL_BLOCK + 1, num_blocks))
        self.index = PrefixIndex()
        self.holders = [0] * num_blocks
        """Requests that hold each block."""
        self.keys: list[int | None] = [None] * num_blocks
        """Key of each cached block."""
        self.evicted: list[int] = []
        """Keys of the blocks that were evicted, in order, until somebody clears the list."""
        self.handed_out: list[int] | None = None
        """Blocks that were taken, in order, for whoever puts a list here and clears it."""
        self.stored: list[int] = []
        """Keys under which a block was cached, in order, until somebody clears the list."""

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, cached ones included."""
        return len(self.free)

    def cached(self, key: int) -> int | None:
        """Return the block that is cached under `key`, None if there is none; changes nothing."""
        return self.index.first(key)

    def take(self) -> int:
        """Return the first free block, now held once; if it was cached it is evicted."""
        block = self.free.pop_first()
        key = self.keys[block]
        if key is not None:
            self.index.remove(key, block)
            self.keys[block] = None
            self.evicted.append(key)
        self.holders[block] = 1
        if self.handed_out is not None:
            self.handed_out.append(block)
        return block

    def hold(self, block: int) -> None:
        """Hold a cached block once more."""
        if self.holders[block] == 0:
            self.free.remove(block)
        self.holders[block] += 1

    def cache(self, block: int, key: int) -> None:
        """Give a held block that has no key its key: from now on it can be hit."""
        assert self.holders[block] > 0 and self.keys[block] is None, "only a held block without a key gets one"
        self.keys[block] = key
        self.index.add(key, block)
        self.stored.append(key)

    def release(self, blocks: Iterable[int]) -> None:
        """Hold each block once less; those that nobody holds any more are free.

        Blocks without a key go to the front of the free queue, the others to its end, both in the order given.
        """
        freed = []
        for block in blocks:
            self.holders[block] -= 1
            if self.holders[block] == 0:
                freed.append(block)
        self.free.extend_front(block for block in freed if self.keys[block] is None)
        self.free.extend(block for block in freed if self.keys[block] is not None)

    def count_free(self, blocks: Sequence[int]) -> int:
        """Return how many of these blocks are free."""
        return sum(self.holders[block] == 0 for block in blocks)

    def _check(self) -> None:
        self.index._check()
        free = list(self.free)
        assert len(free) == len(set(free)), "a block is free twice"
        assert NULL_BLOCK not in free and self.holders[NULL_BLOCK] == 0, "the null block was used"
        assert min(self.holders) >= 0, "a block was released more often than held"
        assert set(free) == {block for block in range(1, self.num_blocks) if self.holders[block] == 0}
        assert set(self.index) == {(key, block) for block, key in enumerate(self.keys) if key is not None}
