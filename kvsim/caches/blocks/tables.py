"""Which blocks each request holds, and the rules by which it gets and returns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kvsim.caches.blocks.pool import BlockPool


class Chains(Protocol):
    """The keys of each request's full blocks, of its prompt and, as far as they are known, of its outputs."""

    def __getitem__(self, owner: int, /) -> Sequence[int]:
        """Return the keys of one request, the first block's first."""


class BlockTables:
    """The block tables of all requests over one pool.

    A request is an integer, its *owner*. Blocks are cached when they are scheduled, before anything is computed: a
    second request in the same step already hits them.

    Parameters
    ----------
    pool
        Where blocks come from.
    block_tokens
        Tokens of a block.
    chains
        Keys of full blocks; None switches prefix caching off.

    Examples
    --------
    >>> tables = BlockTables(BlockPool(5), 16, chains=[[70, 71], [70, 72]])
    >>> tables.admit(0, [], num_tokens=40, num_known=40)
    >>> tables.held(0), tables.lookup(1, num_tokens=33), tables.lookup(1, num_tokens=16)
    ([1, 2, 3], [1], [])
    >>> tables.extend(0, num_tokens=65, num_known=65)
    False
    """

    __slots__ = ("_cached", "_chains", "_held", "block_tokens", "pool")

    def __init__(self, pool: BlockPool, block_tokens: int, chains: Chains | None) -> None:
        self.pool = pool
        self.block_tokens = block_tokens
        self._chains = chains
        self._held: dict[int, list[int]] = {}
        self._cached: dict[int, int] = {}

    @property
    def num_blocks(self) -> int:
        """Blocks of the pool, the null block included."""
        return self.pool.num_blocks

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return self.pool.num_free

    def held(self, owner: int) -> list[int]:
        """Return a request's blocks in the order of its tokens."""
        return list(self._held.get(owner, ()))

    def capacity(self, owner: int) -> int:
        """Return how many tokens a request's blocks have room for."""
        return len(self._held.get(owner, ())) * self.block_tokens

    def lookup(self, owner: int, num_tokens: int) -> list[int]:
        """Return the longest cached prefix of a request of `num_tokens` known tokens, as blocks; changes nothing.

        The last token is always computed, so at most ``(num_tokens - 1) // block_tokens`` blocks are hit.
        """
        if self._chains is None:
            return []
        hits = []
        for key in self._chains[owner][: (num_tokens - 1) // self.block_tokens]:
            block = self.pool.cached(key)
            if block is None:
                break
            hits.append(block)
        return hits

    def need(self, num_tokens: int, hits: Sequence[int]) -> int:
        """Return how many free blocks a request without blocks would take for `num_tokens` tokens.

        Hits that nobody holds count too, since they leave the free queue.
        """
        return max(self._blocks_of(num_tokens) - len(hits), 0) + self.pool.count_free(hits)

    def admit(self, owner: int, hits: Sequence[int], num_tokens: int, num_known: int) -> None:
        """Give a request without blocks its hits and then new blocks for `num_tokens` tokens, hits included.

        The caller has seen that `need` blocks are free. Blocks that are full with `num_known` tokens are cached.
        """
        for block in hits:
            self.pool.hold(block)
        self._held[owner] = list(hits)
        self._cached[owner] = len(hits)
        fits = self.extend(owner, num_tokens, num_known)
        assert fits, "admitted without asking whether it fits"

    def extend(self, owner: int, num_tokens: int, num_known: int) -> bool:
        """Give a request blocks for `num_tokens` tokens in all; if there are not enough, change nothing.

        Returns
        -------
        bool
            Whether it has them. Blocks that are full with ``min(num_tokens, num_known)`` tokens are cached.
        """
        held = self._held[owner]
        missing = self._blocks_of(num_tokens) - len(held)
        if missing > self.pool.num_free:
            return False
        for _ in range(missing):
            held.append(self.pool.take())
        self.cache(owner, min(num_tokens, num_known))
        return True

    def cache(self, owner: int, num_tokens: int) -> None:
        """Cache a request's blocks that are full with `num_tokens` tokens and not cached yet."""
        if self._chains is None:
            return
        done, full = self._cached[owner], num_tokens // self.block_tokens
        if full <= done:
            return
        held, keys = self._held[owner], self._chains[owner]
        for place in range(done, full):
            self.pool.cache(held[place], keys[place])
        self._cached[owner] = full

    def release(self, owner: int) -> None:
        """Take all blocks from a request, the last first, so that the tail of a prefix is evicted before its head."""
        del self._cached[owner]
        self.pool.release(reversed(self._held.pop(owner)))

    def take_events(self) -> tuple[list[int], list[int]]:
        """Return the keys evicted and the keys stored since the last call, in order."""
        evicted, stored = self.pool.evicted, self.pool.stored
        self.pool.evicted, self.pool.stored = [], []
        return evicted, stored

    def _blocks_of(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_tokens)

    def _check(self) -> None:
        self.pool._check()
        holders = [0] * self.pool.num_blocks
        for owner, held in self._held.items():
            assert len(held) == len(set(held)), "a request holds a block twice"
            for block in held:
                holders[block] += 1
            for place, block in enumerate(held):
                key = None if self._chains is None or place >= self._cached[owner] else self._chains[owner][place]
                assert self.pool.keys[block] == key, "a block under another key than its tokens have"
        assert holders == self.pool.holders, "a block is held by nobody's table"
