"""Plain versions of the policies made of several queues: SIEVE, ARC, S3-FIFO."""

from __future__ import annotations

from collections import OrderedDict, deque

from tests.caches.plain import HIT, Outcome


class Sieve:
    """SIEVE (NSDI 2024): a hand goes from the oldest to the newest and lets go of the first that was not visited."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.oldest_first: list[int] = []
        self.visited: dict[int, bool] = {}
        self.hand = 0

    def access(self, key: int) -> Outcome:
        """Access one key."""
        if key in self.visited:
            self.visited[key] = True
            return HIT
        victim = self._evict() if len(self.visited) == self.capacity else None
        self.oldest_first.append(key)
        self.visited[key] = False
        return Outcome(False, True, victim)

    def _evict(self) -> int:
        while self.visited[self.oldest_first[self.hand]]:
            self.visited[self.oldest_first[self.hand]] = False
            self.hand = (self.hand + 1) % len(self.oldest_first)
        victim = self.oldest_first.pop(self.hand)
        del self.visited[victim]
        if self.hand == len(self.oldest_first):
            self.hand = 0
        return victim


class Arc:
    """ARC as figure 4 of the paper has it (FAST 2003), with a real target."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.target = 0.0
        self.once, self.again = OrderedDict[int, None](), OrderedDict[int, None]()
        self.once_ghosts, self.again_ghosts = OrderedDict[int, None](), OrderedDict[int, None]()

    def access(self, key: int) -> Outcome:
        """Access one key."""
        if key in self.once or key in self.again:
            self.once.pop(key, None)
            self.again[key] = None
            self.again.move_to_end(key)
            return HIT
        if key in self.once_ghosts:
            self.target += max(len(self.again_ghosts) / len(self.once_ghosts), 1.0)
            self.target = min(self.target, float(self.capacity))
            del self.once_ghosts[key]
            victim: int | None = self._replace(False)
            self.again[key] = None
        elif key in self.again_ghosts:
            self.target = max(self.target - max(len(self.once_ghosts) / len(self.again_ghosts), 1.0), 0.0)
            del self.again_ghosts[key]
            victim = self._replace(True)
            self.again[key] = None
        else:
            victim = self._make_room()
            self.once[key] = None
        return Outcome(False, True, victim)

    def _make_room(self) -> int | None:
        known_once = len(self.once) + len(self.once_ghosts)
        known = known_once + len(self.again) + len(self.again_ghosts)
        if known_once == self.capacity:
            if not self.once_ghosts:
                return self.once.popitem(last=False)[0]
            self.once_ghosts.popitem(last=False)
            return self._replace(False)
        if known >= self.capacity:
            if known == 2 * self.capacity:
                self.again_ghosts.popitem(last=False)
            return self._replace(False)
        return None

    def _replace(self, is_again_ghost: bool) -> int:
        once = len(self.once)
        if (once and (once > self.target or (once == self.target and is_again_ghost))) or not self.again:
            source, ghosts = self.once, self.once_ghosts
        else:
            source, ghosts = self.again, self.again_ghosts
        victim = source.popitem(last=False)[0]
        ghosts[victim] = None
        return victim


class S3Fifo:
    """S3-FIFO (SOSP 2023), algorithm 1, with ghosts known by their turn as section 4.2 does."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.small_size = max(1, capacity // 10)
        self.main_size = capacity - self.small_size
        self.small, self.main = deque[int](), deque[int]()
        self.count: dict[int, int] = {}
        self.ghost_turn: dict[int, int] = {}
        self.turn = 0

    def access(self, key: int) -> Outcome:
        """Access one key."""
        if key in self.count:
            self.count[key] = min(self.count[key] + 1, 3)
            return HIT
        is_ghost = key in self.ghost_turn and self._is_fresh(key)  # before the eviction makes another ghost
        victim = self._evict() if len(self.count) == self.capacity else None
        self.ghost_turn.pop(key, None)
        (self.main if is_ghost else self.small).append(key)
        self.count[key] = 0
        return Outcome(False, True, victim)

    def _is_fresh(self, key: int) -> bool:
        return self.turn - self.ghost_turn[key] <= max(1, self.main_size)

    def _evict(self) -> int:
        while True:
            if len(self.main) > self.main_size or not self.small:
                key = self.main.popleft()
                if not self.count[key]:
                    del self.count[key]
                    return key
                self.count[key] -= 1
                self.main.append(key)
            else:
                key = self.small.popleft()
                if self.count[key] < 2:
                    del self.count[key]
                    self.ghost_turn[key] = self.turn
                    self.turn += 1
                    return key
                self.count[key] = 0
                self.main.append(key)
