"""Compiled replay of request traces through a prefix cache; its plain twin is `kvsim.caches.prefix.cache.PrefixCache`.

One loop over requests, with a heap of free leaves for the ranked policies and queues for the others, oldest first, that
are `kvsim.kernels.replay.rings`. What is known of a block lies in one row of `node`, so that calls pass few arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit
from kvsim.kernels.replay.rings import first_of, join_last, leave, make_empty

LRU, FIFO, LFU, BELADY, SIEVE, S3_FIFO, ARC = range(7)

_CACHED, _HOLDERS, _CHILDREN, _RANK, _USES, _HEAP, _QUEUE, _FLAG, _SEEN = range(9)
_NUM_FIELDS = 9
_NONE, _A, _B, _GHOSTS_A, _GHOSTS_B = range(5)
"""Queues: small and main, or once and again; the ghosts of either."""
_CLOCK, _SIZE, _BUDGET, _HEAP_SIZE, _HAND, _POLICY, _LENGTHS = range(7)
"""State: the lengths of the queues stand from `_LENGTHS` on."""
_NUM_QUEUES = 5
_LFU_SHIFT = 40


@njit
def replay_prefix(
    policy: int,
    blocks: NDArray[np.int64],
    starts: NDArray[np.int64],
    parents: NDArray[np.int64],
    most_hits: NDArray[np.int64],
    budget: int,
    second_touch: bool,
    in_flight: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the hits and the evictions of each request, ``[num_requests]`` each.

    Parameters
    ----------
    policy
        One of the constants of this file.
    blocks, starts, parents
        As in `kvsim.traces.requests.base.RequestBlocks`.
    most_hits
        Blocks that each request may hit, ``[num_requests]``; what is cached beyond is computed again.
    """
    num_blocks, num_requests = parents.size, starts.size - 1
    node = np.zeros((num_blocks, _NUM_FIELDS), dtype=np.int64)
    node[:, _HEAP] = -1
    links = np.zeros(2 * (num_blocks + _NUM_QUEUES), dtype=np.uint32)
    for name in range(_NUM_QUEUES):
        make_empty(links, np.uint64(num_blocks + name))
    heap = np.empty(num_blocks + 1, dtype=np.int64)
    state = np.zeros(_LENGTHS + _NUM_QUEUES, dtype=np.int64)
    state[_BUDGET], state[_POLICY], state[_HAND] = budget, policy, -1
    target = np.zeros(1)
    coming = _next_uses(blocks, starts, most_hits, num_blocks) if policy == BELADY else np.zeros(1, dtype=np.int64)
    num_held = np.zeros(num_requests, dtype=np.int64)
    hits = np.zeros(num_requests, dtype=np.int64)
    evictions = np.zeros(num_requests, dtype=np.int64)
    oldest = 0
    for request in range(num_requests):
        start, stop = starts[request], starts[request + 1]
        while request - oldest >= in_flight:
            _finish(oldest, num_held, blocks, starts, node, links, heap, state)
            oldest += 1
        place = start
        while place < stop and node[blocks[place], _CACHED] == 1:
            _hit(blocks[place], coming[place] if policy == BELADY else 0, node, heap, state)
            place += 1
        hits[request] = min(place - start, most_hits[request])
        while place < stop:
            block = blocks[place]
            if second_touch and node[block, _SEEN] == 0:
                break
            if state[_SIZE] == budget:
                victim = _victim(node, links, heap, state, target)
                while victim < 0 and oldest < request:
                    _finish(oldest, num_held, blocks, starts, node, links, heap, state)
                    oldest += 1
                    victim = _victim(node, links, heap, state, target)
                if victim < 0 or (policy == BELADY and -node[victim, _RANK] <= coming[place]):
                    break
                _evict(victim, parents, node, links, heap, state)
                evictions[request] += 1
            _enter(block, coming[place] if policy == BELADY else 0, parents, node, links, state, target)
            place += 1
        num_held[request] = place - start
        if second_touch:
            for place in range(start, stop):
                node[blocks[place], _SEEN] = 1
    return hits, evictions


@njit
def _next_uses(
    blocks: NDArray[np.int64], starts: NDArray[np.int64], most_hits: NDArray[np.int64], num_blocks: int
) -> NDArray[np.int64]:
    never = blocks.size
    coming = np.full(num_blocks, never, dtype=np.int64)
    next_uses = np.empty(blocks.size, dtype=np.int64)
    for request in range(starts.size - 2, -1, -1):
        for place in range(starts[request + 1] - 1, starts[request] - 1, -1):
            next_uses[place] = coming[blocks[place]]
            if place - starts[request] < most_hits[request]:
                coming[blocks[place]] = place
    return next_uses


@njit
def _hit(block: int, next_use: int, node: Any, heap: Any, state: Any) -> None:
    policy = state[_POLICY]
    node[block, _HOLDERS] += 1
    if node[block, _HEAP] >= 0:
        _heap_remove(block, node, heap, state)
    if policy == LFU:
        node[block, _USES] += 1
    elif policy == BELADY:
        node[block, _RANK] = -next_use
    elif policy == SIEVE:
        if node[block, _QUEUE] == _A:
            node[block, _FLAG] = 1
    elif policy == S3_FIFO:
        node[block, _USES] = min(3, node[block, _USES] + 1)
    elif policy == ARC:
        node[block, _FLAG] = 1


@njit
def _enter(block: int, next_use: int, parents: Any, node: Any, links: Any, state: Any, target: Any) -> None:
    policy = state[_POLICY]
    state[_SIZE] += 1
    node[block, _CACHED], node[block, _HOLDERS] = 1, 1
    if parents[block] >= 0:
        node[parents[block], _CHILDREN] += 1
    if policy == LFU:
        node[block, _USES] = 1
    elif policy == FIFO:
        state[_CLOCK] += 1
        node[block, _RANK] = state[_CLOCK]
    elif policy == BELADY:
        node[block, _RANK] = -next_use
    elif policy == S3_FIFO:
        node[block, _USES] = 0
        node[block, _FLAG] = 0
        if node[block, _QUEUE] == _GHOSTS_A:
            _unlink(block, node, links, state)
            node[block, _FLAG] = 1
    elif policy == ARC:
        _adapt(block, node, links, state, target)


@njit
def _adapt(block: int, node: Any, links: Any, state: Any, target: Any) -> None:
    once, again = state[_LENGTHS + _GHOSTS_A], state[_LENGTHS + _GHOSTS_B]
    node[block, _FLAG] = 0
    if node[block, _QUEUE] == _GHOSTS_A:
        target[0] = min(float(state[_BUDGET]), target[0] + max(1.0, again / once))
        _unlink(block, node, links, state)
        node[block, _FLAG] = 1
    elif node[block, _QUEUE] == _GHOSTS_B:
        target[0] = max(0.0, target[0] - max(1.0, once / again))
        _unlink(block, node, links, state)
        node[block, _FLAG] = 1


@njit
def _finish(
    request: int, num_held: Any, blocks: Any, starts: Any, node: Any, links: Any, heap: Any, state: Any
) -> None:
    first = starts[request]
    for place in range(first + num_held[request] - 1, first - 1, -1):
        block = blocks[place]
        node[block, _HOLDERS] -= 1
        if node[block, _HOLDERS] == 0:
            _release(block, node, links, heap, state)


@njit
def _release(block: int, node: Any, links: Any, heap: Any, state: Any) -> None:
    policy = state[_POLICY]
    if policy <= BELADY:
        if policy == LRU:
            state[_CLOCK] += 1
            node[block, _RANK] = state[_CLOCK]
        elif policy == LFU:
            state[_CLOCK] += 1
            node[block, _RANK] = (node[block, _USES] << _LFU_SHIFT) + state[_CLOCK]
        if node[block, _CHILDREN] == 0:
            _heap_push(block, node, heap, state)
    elif policy == SIEVE:
        if node[block, _QUEUE] == _NONE:
            node[block, _FLAG] = 0
            _append(block, _A, node, links, state)
    elif policy == S3_FIFO:
        if node[block, _QUEUE] == _NONE:
            _append(block, _B if node[block, _FLAG] == 1 else _A, node, links, state)
    else:
        is_again = node[block, _QUEUE] == _B or node[block, _FLAG] == 1
        if node[block, _QUEUE] != _NONE:
            _unlink(block, node, links, state)
        node[block, _FLAG] = 0
        _append(block, _B if is_again else _A, node, links, state)


@njit
def _victim(node: Any, links: Any, heap: Any, state: Any, target: Any) -> Any:
    policy = state[_POLICY]
    if policy <= BELADY:
        return heap[0] if state[_HEAP_SIZE] > 0 else -1
    if policy == SIEVE:
        return _sieve_victim(node, links, state)
    if policy == S3_FIFO:
        victim = -1
        if state[_LENGTHS + _A] >= max(1, state[_BUDGET] // 10):
            victim = _small_victim(node, links, state)
        if victim < 0:
            victim = _main_victim(node, links, state)
        return _small_victim(node, links, state) if victim < 0 else victim
    first, second = _A, _B
    if state[_LENGTHS + _A] == 0 or state[_LENGTHS + _A] <= target[0]:
        first, second = _B, _A
    victim = _oldest_free(first, node, links)
    return _oldest_free(second, node, links) if victim < 0 else victim


@njit
def _is_free(block: int, node: Any) -> Any:
    return node[block, _HOLDERS] == 0 and node[block, _CHILDREN] == 0


@njit
def _oldest_free(name: int, node: Any, links: Any) -> Any:
    block = _oldest(name, node, links)
    while block >= 0 and not _is_free(block, node):
        block = _younger(block, node, links)
    return block


@njit
def _sieve_victim(node: Any, links: Any, state: Any) -> Any:
    block = state[_HAND] if state[_HAND] >= 0 else _oldest(_A, node, links)
    for _ in range(2 * state[_LENGTHS + _A]):
        following = _younger(block, node, links)
        if _is_free(block, node):
            if node[block, _FLAG] == 0:
                state[_HAND] = following
                return block
            node[block, _FLAG] = 0
        block = following if following >= 0 else _oldest(_A, node, links)
    return -1


@njit
def _small_victim(node: Any, links: Any, state: Any) -> Any:
    while state[_LENGTHS + _A] > 0:
        block = _oldest(_A, node, links)
        is_free = _is_free(block, node)
        if is_free and node[block, _USES] <= 1:
            return block
        if is_free:
            node[block, _USES] = 0
        _unlink(block, node, links, state)
        _append(block, _B, node, links, state)
    return -1


@njit
def _main_victim(node: Any, links: Any, state: Any) -> Any:
    for _ in range(4 * state[_LENGTHS + _B]):
        block = _oldest(_B, node, links)
        if _is_free(block, node):
            if node[block, _USES] == 0:
                return block
            node[block, _USES] -= 1
        _unlink(block, node, links, state)
        _append(block, _B, node, links, state)
    return -1


@njit
def _evict(block: int, parents: Any, node: Any, links: Any, heap: Any, state: Any) -> None:
    policy, budget = state[_POLICY], state[_BUDGET]
    state[_SIZE] -= 1
    node[block, _CACHED] = 0
    if policy <= BELADY:
        _heap_remove(block, node, heap, state)
    parent = parents[block]
    if parent >= 0:
        node[parent, _CHILDREN] -= 1
        if policy <= BELADY and _is_free(parent, node):
            _heap_push(parent, node, heap, state)
    if policy <= BELADY:
        return
    name = node[block, _QUEUE]
    _unlink(block, node, links, state)
    if policy == S3_FIFO and name == _A:
        _append(block, _GHOSTS_A, node, links, state)
        if state[_LENGTHS + _GHOSTS_A] > budget:
            _unlink(_oldest(_GHOSTS_A, node, links), node, links, state)
    elif policy == ARC:
        _append(block, _GHOSTS_A if name == _A else _GHOSTS_B, node, links, state)
        while state[_LENGTHS + _GHOSTS_A] > 0 and state[_LENGTHS + _A] + state[_LENGTHS + _GHOSTS_A] > budget:
            _unlink(_oldest(_GHOSTS_A, node, links), node, links, state)
        while state[_LENGTHS + _GHOSTS_B] > 0 and state[_LENGTHS + 1 :].sum() > 2 * budget:
            _unlink(_oldest(_GHOSTS_B, node, links), node, links, state)


@njit
def _append(block: int, name: int, node: Any, links: Any, state: Any) -> None:
    join_last(links, np.uint64(node.shape[0] + name), np.uint64(block))
    node[block, _QUEUE] = name
    state[_LENGTHS + name] += 1


@njit
def _unlink(block: int, node: Any, links: Any, state: Any) -> None:
    leave(links, np.uint64(block))
    state[_LENGTHS + node[block, _QUEUE]] -= 1
    node[block, _QUEUE] = _NONE


@njit
def _oldest(name: int, node: Any, links: Any) -> Any:
    """Return the oldest block of a queue; that of an empty one is no block."""
    return _younger(node.shape[0] + name, node, links)


@njit
def _younger(block: int, node: Any, links: Any) -> Any:
    """Return the block after one in its queue, -1 after the youngest."""
    following = np.int64(first_of(links, np.uint64(block)))
    return following if following < node.shape[0] else -1


@njit
def _is_worse(left: int, right: int, node: Any) -> Any:
    if node[left, _RANK] != node[right, _RANK]:
        return node[left, _RANK] < node[right, _RANK]
    return left < right


@njit
def _heap_push(block: int, node: Any, heap: Any, state: Any) -> None:
    place = state[_HEAP_SIZE]
    state[_HEAP_SIZE] += 1
    _heap_rise(place, block, node, heap)


@njit
def _heap_rise(place: int, block: int, node: Any, heap: Any) -> None:
    while place > 0:
        above = (place - 1) >> 1
        if not _is_worse(block, heap[above], node):
            break
        heap[place] = heap[above]
        node[heap[place], _HEAP] = place
        place = above
    heap[place] = block
    node[block, _HEAP] = place


@njit
def _heap_remove(block: int, node: Any, heap: Any, state: Any) -> None:
    place = node[block, _HEAP]
    node[block, _HEAP] = -1
    state[_HEAP_SIZE] -= 1
    size = state[_HEAP_SIZE]
    if place == size:
        return
    moved = heap[size]
    while True:
        below = 2 * place + 1
        if below >= size:
            break
        if below + 1 < size and _is_worse(heap[below + 1], heap[below], node):
            below += 1
        if not _is_worse(heap[below], moved, node):
            break
        heap[place] = heap[below]
        node[heap[place], _HEAP] = place
        place = below
    _heap_rise(place, moved, node, heap)
