"""Which block leaves a prefix cache: one small class a policy, notified of events and asked for the worst free block.

Only a *free* block may leave: one that no request holds and that no cached block follows. So leaves go first, and
whatever a request can reach from its first block on stays reachable. A request's blocks are released tail first.

These are the plain versions, kept to be read and to hold the compiled ones (`kvsim.kernels.prefix`) to; the real block
store runs on them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, TypeAlias

from kvsim.errors import PolicyError
from kvsim.scenario.toml import nearest

IsFree: TypeAlias = Callable[[int], bool]

S3_SMALL_FRAC = 10
"""S3-FIFO's small queue is one in so many blocks of the budget."""
S3_MAX_USES = 3


class Eviction(Protocol):
    """What a policy is notified of and asked for."""

    def hit(self, block: int, next_use: int) -> None:
        """Take note that a request found `block`, and holds it; `next_use` is for the policy that may know it."""

    def enter(self, block: int, next_use: int) -> None:
        """Take note that `block` came in, held by the request that computed it."""

    def released(self, block: int) -> None:
        """Take note that nobody holds `block` any more; a request's last block is released first."""

    def victim(self, is_free: IsFree) -> int | None:
        """Return the free block to give up, None where no block is free; the cache then evicts it."""

    def outlives(self, block: int, next_use: int) -> bool:
        """Return whether `block` is to be kept rather than a new one that is next used at `next_use`."""

    def evicted(self, block: int) -> None:
        """Forget `block`."""


class _Open:
    """Every new block is let in."""

    def outlives(self, block: int, next_use: int) -> bool:
        """Let every block in."""
        del block, next_use
        return False


class Ranked(_Open):
    """Keep a rank of every block and give up the free one of the lowest; what the ranked policies share."""

    def __init__(self, budget_blocks: int) -> None:
        del budget_blocks
        self._ranks: dict[int, tuple[int, ...]] = {}
        self._uses: dict[int, int] = {}
        self._clock = 0

    def hit(self, block: int, next_use: int) -> None:
        """Count a use."""
        del next_use
        self._uses[block] += 1

    def enter(self, block: int, next_use: int) -> None:
        """Count the first use."""
        del next_use
        self._uses[block] = 1

    def released(self, block: int) -> None:
        """Change nothing, where the rank does not depend on the release."""

    def victim(self, is_free: IsFree) -> int | None:
        """Return the free block of the lowest rank."""
        return min(filter(is_free, self._ranks), key=self._ranks.__getitem__, default=None)

    def evicted(self, block: int) -> None:
        """Forget rank and uses."""
        del self._ranks[block], self._uses[block]

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


class Lru(Ranked):
    """Give up the leaf that was released longest ago: vLLM's free queue, SGLang's default."""

    def released(self, block: int) -> None:
        """Rank by the time of release."""
        self._ranks[block] = (self._tick(),)


class Fifo(Ranked):
    """Give up the leaf that came in first."""

    def enter(self, block: int, next_use: int) -> None:
        """Rank by the time of entry."""
        super().enter(block, next_use)
        self._ranks[block] = (self._tick(),)


class Lfu(Ranked):
    """Give up the leaf that was used least often since it came in; of equals, the one released longest ago."""

    def released(self, block: int) -> None:
        """Rank by uses, then by the time of release."""
        self._ranks[block] = (self._uses[block], self._tick())


class Belady(Ranked):
    """Give up the leaf whose next use lies furthest ahead, and let nothing in that is used later still: the bound.

    A block is never used before its parent in one request, so its next use always lies behind its parent's: MIN
    (L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", 1966) with the right to pass a
    block by evicts leaves first of itself, and its hits are the most that any prefix cache of the budget can have where
    requests come one at a time.
    """

    def hit(self, block: int, next_use: int) -> None:
        """Rank by the next use."""
        super().hit(block, next_use)
        self._ranks[block] = (-next_use, block)

    def enter(self, block: int, next_use: int) -> None:
        """Rank by the next use."""
        super().enter(block, next_use)
        self._ranks[block] = (-next_use, block)

    def outlives(self, block: int, next_use: int) -> bool:
        """Keep what is used before the new block is."""
        return -self._ranks[block][0] <= next_use


class Sieve(_Open):
    """SIEVE: a queue by age, a hand that moves from old to new, clears the mark of what was used, and stops at a leaf.

    After Y. Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024; the hand passes over blocks that are not free and
    leaves their mark alone.
    """

    def __init__(self, budget_blocks: int) -> None:
        del budget_blocks
        self._marks: OrderedDict[int, bool] = OrderedDict()
        self._hand: int | None = None

    def hit(self, block: int, next_use: int) -> None:
        """Mark the block."""
        del next_use
        if block in self._marks:
            self._marks[block] = True

    def enter(self, block: int, next_use: int) -> None:
        """Wait for its release."""

    def released(self, block: int) -> None:
        """Queue a new block as the youngest."""
        self._marks.setdefault(block, False)

    def victim(self, is_free: IsFree) -> int | None:
        """Move the hand, at most twice round, and return where it stops."""
        order = list(self._marks)
        if not order:
            return None
        at = order.index(self._hand) if self._hand is not None else 0
        for _ in range(2 * len(order)):
            block = order[at]
            at = (at + 1) % len(order)
            if is_free(block):
                if not self._marks[block]:
                    self._hand = order[at] if at else None
                    return block
                self._marks[block] = False
        return None

    def evicted(self, block: int) -> None:
        """Take the block out of the queue; a hand that pointed at it moves on."""
        if block == self._hand:
            self._hand = [*self._marks, None][list(self._marks).index(block) + 1]
        del self._marks[block]


class S3Fifo(_Open):
    """S3-FIFO: new blocks queue in a small FIFO, those used twice more move to the main one, ghosts come back to it.

    After J. Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023; a block that is
    not free when its turn comes counts as used: it moves to the main queue, or queues there again.
    """

    def __init__(self, budget_blocks: int) -> None:
        self._small_blocks = max(1, budget_blocks // S3_SMALL_FRAC)
        self._ghost_blocks = budget_blocks
        self._small: OrderedDict[int, None] = OrderedDict()
        self._main: OrderedDict[int, None] = OrderedDict()
        self._ghosts: OrderedDict[int, None] = OrderedDict()
        self._uses: dict[int, int] = {}
        self._to_main: set[int] = set()

    def hit(self, block: int, next_use: int) -> None:
        """Count a use, up to three."""
        del next_use
        self._uses[block] = min(S3_MAX_USES, self._uses[block] + 1)

    def enter(self, block: int, next_use: int) -> None:
        """Remember whether it left a short while ago."""
        del next_use
        self._uses[block] = 0
        if block in self._ghosts:
            del self._ghosts[block]
            self._to_main.add(block)

    def released(self, block: int) -> None:
        """Queue a new block."""
        if block in self._small or block in self._main:
            return
        if block in self._to_main:
            self._to_main.remove(block)
            self._main[block] = None
        else:
            self._small[block] = None

    def victim(self, is_free: IsFree) -> int | None:
        """Return the first free block of the small queue that was not used, else one of the main queue."""
        chosen = None
        if len(self._small) >= self._small_blocks:
            chosen = self._from_small(is_free)
        if chosen is None:
            chosen = self._from_main(is_free)
        return self._from_small(is_free) if chosen is None else chosen

    def evicted(self, block: int) -> None:
        """Take the block out of its queue; one of the small queue leaves a ghost."""
        del self._uses[block]
        if block in self._main:
            del self._main[block]
            return
        del self._small[block]
        self._ghosts[block] = None
        if len(self._ghosts) > self._ghost_blocks:
            self._ghosts.popitem(last=False)

    def _from_small(self, is_free: IsFree) -> int | None:
        while self._small:
            block = next(iter(self._small))
            if is_free(block):
                if self._uses[block] <= 1:
                    return block
                self._uses[block] = 0
            del self._small[block]
            self._main[block] = None
        return None

    def _from_main(self, is_free: IsFree) -> int | None:
        for _ in range((S3_MAX_USES + 1) * len(self._main)):
            block = next(iter(self._main))
            if is_free(block):
                if self._uses[block] == 0:
                    return block
                self._uses[block] -= 1
            self._main.move_to_end(block)
        return None


class Arc(_Open):
    """ARC: blocks used once and blocks used again in two LRU queues, whose shares the ghosts of both adapt.

    After N. Megiddo and D. Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003; of the queue that
    must give, the oldest free block goes, or of the other where none is free. The lists of ghosts are cut back at
    every eviction.
    """

    def __init__(self, budget_blocks: int) -> None:
        self._budget = budget_blocks
        self._once: OrderedDict[int, None] = OrderedDict()
        self._again: OrderedDict[int, None] = OrderedDict()
        self._ghosts_once: OrderedDict[int, None] = OrderedDict()
        self._ghosts_again: OrderedDict[int, None] = OrderedDict()
        self._to_again: set[int] = set()
        self._target_once = 0.0

    def hit(self, block: int, next_use: int) -> None:
        """Send it to the second queue when it is released."""
        del next_use
        self._to_again.add(block)

    def enter(self, block: int, next_use: int) -> None:
        """Adapt the shares to a ghost that comes back."""
        del next_use
        once, again = len(self._ghosts_once), len(self._ghosts_again)
        if block in self._ghosts_once:
            self._target_once = min(float(self._budget), self._target_once + max(1.0, again / once))
            del self._ghosts_once[block]
            self._to_again.add(block)
        elif block in self._ghosts_again:
            self._target_once = max(0.0, self._target_once - max(1.0, once / again))
            del self._ghosts_again[block]
            self._to_again.add(block)

    def released(self, block: int) -> None:
        """Queue the block as the youngest of its queue."""
        self._once.pop(block, None)
        is_again = self._again.pop(block, 0) is None or block in self._to_again
        self._to_again.discard(block)
        (self._again if is_again else self._once)[block] = None

    def victim(self, is_free: IsFree) -> int | None:
        """Return the oldest free block of the queue that is over its share."""
        first, second = self._once, self._again
        if not self._once or len(self._once) <= self._target_once:
            first, second = second, first
        return next(filter(is_free, (*first, *second)), None)

    def evicted(self, block: int) -> None:
        """Keep its ghost, and no more ghosts than ARC has room for."""
        if block in self._once:
            del self._once[block]
            self._ghosts_once[block] = None
        else:
            del self._again[block]
            self._ghosts_again[block] = None
        while self._ghosts_once and len(self._once) + len(self._ghosts_once) > self._budget:
            self._ghosts_once.popitem(last=False)
        while self._ghosts_again and self._num_known > 2 * self._budget:
            self._ghosts_again.popitem(last=False)

    @property
    def _num_known(self) -> int:
        return len(self._once) + len(self._again) + len(self._ghosts_once) + len(self._ghosts_again)


EVICTIONS: dict[str, Callable[[int], Eviction]] = {
    "lru": Lru,
    "fifo": Fifo,
    "lfu": Lfu,
    "sieve": Sieve,
    "s3-fifo": S3Fifo,
    "arc": Arc,
    "belady": Belady,
}
"""Policies by name; `belady` is the bound, and knows the future."""


def make_eviction(name: str, budget_blocks: int) -> Eviction:
    """Return a fresh policy.

    Raises
    ------
    PolicyError
        If there is none of this name.
    """
    if name not in EVICTIONS:
        raise PolicyError(f"no eviction policy of prefix blocks is called {name!r}{nearest(name, EVICTIONS)}")
    return EVICTIONS[name](budget_blocks)
