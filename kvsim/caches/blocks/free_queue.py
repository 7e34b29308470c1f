"""The order in which free blocks are handed out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator


class FreeQueue:
    """The blocks that nobody holds, the next one to be handed out first; every operation is O(1) a block.

    Examples
    --------
    >>> queue = FreeQueue([1, 2, 3, 4])
    >>> queue.remove(2)
    >>> queue.extend_front([8, 7])
    >>> queue.extend([2])
    >>> list(queue)
    [8, 7, 1, 3, 4, 2]
    >>> queue.pop_first()
    8
    """

    __slots__ = ("_blocks",)

    def __init__(self, blocks: Iterable[int]) -> None:
        self._blocks = OrderedDict.fromkeys(blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[int]:
        return iter(self._blocks)

    def __contains__(self, block: int) -> bool:
        return block in self._blocks

    def pop_first(self) -> int:
        """Take out the first block and return it."""
        return self._blocks.popitem(last=False)[0]

    def remove(self, block: int) -> None:
        """Take out one block, wherever it stands."""
        del self._blocks[block]

    def extend(self, blocks: Iterable[int]) -> None:
        """Put blocks behind the last one, in the order given."""
        for block in blocks:
            self._blocks[block] = None

    def extend_front(self, blocks: Iterable[int]) -> None:
        """Put blocks before the first one, in the order given."""
        for block in reversed(list(blocks)):
            self._blocks[block] = None
            self._blocks.move_to_end(block, last=False)
