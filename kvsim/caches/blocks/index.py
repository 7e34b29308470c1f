"""The prefix index: from a key to the blocks that hold its tokens."""

from __future__ import annotations

from collections.abc import Iterator


class PrefixIndex:
    """Cached blocks by key. A key may have several blocks: the one that was added first answers.

    vLLM does not remove duplicates: two requests that computed the same block each keep their own.

    Examples
    --------
    >>> index = PrefixIndex()
    >>> index.add(5, block=1)
    >>> index.add(5, block=2)
    >>> index.first(5)
    1
    >>> index.remove(5, block=1)
    >>> index.first(5), index.first(6)
    (2, None)
    """

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks: dict[int, dict[int, None]] = {}

    def __len__(self) -> int:
        """Return how many blocks are cached, duplicates counted."""
        return sum(len(blocks) for blocks in self._blocks.values())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield every key with each of its blocks."""
        return ((key, block) for key, blocks in self._blocks.items() for block in blocks)

    def first(self, key: int) -> int | None:
        """Return the block that was added first among those of `key`, None if there is none."""
        blocks = self._blocks.get(key)
        return next(iter(blocks)) if blocks else None

    def add(self, key: int, block: int) -> None:
        """Add a block under `key`."""
        self._blocks.setdefault(key, {})[block] = None

    def remove(self, key: int, block: int) -> None:
        """Remove one block from those of `key`."""
        blocks = self._blocks[key]
        del blocks[block]
        if not blocks:
            del self._blocks[key]

    def _check(self) -> None:
        assert all(self._blocks.values()), "a key without a block"
        blocks = [block for _, block in self]
        assert len(blocks) == len(set(blocks)), "a block under two keys"
