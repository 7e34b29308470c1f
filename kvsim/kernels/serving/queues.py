"""Waiting requests, a ring or a heap; the plain twins are in `kvsim.policies.schedulers.queues`."""

from __future__ import annotations

from kvsim.kernels.arrays import compiled, int_rows, ints
from kvsim.kernels.serving.layout import (
    ARRIVAL,
    BY_PRIORITY,
    LISTS,
    NUM_WAITING,
    NUMBERS,
    PRIORITY,
    RANK,
    REQUESTS,
    WAITING,
    WAITING_HEAD,
)


@compiled
def head(core):
    """Return the request that is served next."""
    return int_rows(core, LISTS)[WAITING, ints(core, NUMBERS)[WAITING_HEAD]]


@compiled
def push(core, request, is_back):
    """Put a request in: behind all others, or before them if it `is_back`; a heap has an order of its own."""
    numbers, queue = ints(core, NUMBERS), int_rows(core, LISTS)[WAITING]
    size = numbers[NUM_WAITING]
    numbers[NUM_WAITING] = size + 1
    if numbers[BY_PRIORITY]:
        queue[size] = request
        _rise(core, size)
    elif is_back:
        numbers[WAITING_HEAD] = (numbers[WAITING_HEAD] - 1 + queue.size) % queue.size
        queue[numbers[WAITING_HEAD]] = request
    else:
        queue[(numbers[WAITING_HEAD] + size) % queue.size] = request


@compiled
def pop(core):
    """Take the head out."""
    numbers = ints(core, NUMBERS)
    if numbers[BY_PRIORITY]:
        _remove_from_heap(core, 0)
    else:
        numbers[WAITING_HEAD] = (numbers[WAITING_HEAD] + 1) % int_rows(core, LISTS).shape[1]
        numbers[NUM_WAITING] -= 1


@compiled
def remove(core, request):
    """Take out one request, wherever it stands."""
    numbers, queue = ints(core, NUMBERS), int_rows(core, LISTS)[WAITING]
    first, place = numbers[WAITING_HEAD], 0
    while queue[(first + place) % queue.size] != request:
        place += 1
    if numbers[BY_PRIORITY]:
        _remove_from_heap(core, place)
        return
    numbers[NUM_WAITING] -= 1
    for behind in range(place, numbers[NUM_WAITING]):
        queue[(first + behind) % queue.size] = queue[(first + behind + 1) % queue.size]


@compiled
def _comes_before(core, left, right):
    """Return whether one request is served before another by priority, arrival, rank and index."""
    requests = int_rows(core, REQUESTS)
    for column in (PRIORITY, ARRIVAL, RANK):
        if requests[left, column] != requests[right, column]:
            return requests[left, column] < requests[right, column]
    return left < right


@compiled
def _remove_from_heap(core, place):
    numbers, heap = ints(core, NUMBERS), int_rows(core, LISTS)[WAITING]
    numbers[NUM_WAITING] -= 1
    size = numbers[NUM_WAITING]
    if place < size:
        heap[place] = heap[size]
        _sink(core, place, size)
        _rise(core, place)


@compiled
def _rise(core, place):
    heap = int_rows(core, LISTS)[WAITING]
    request = heap[place]
    while place > 0 and _comes_before(core, request, heap[(place - 1) // 2]):
        heap[place] = heap[(place - 1) // 2]
        place = (place - 1) // 2
    heap[place] = request


@compiled
def _sink(core, place, size):
    heap = int_rows(core, LISTS)[WAITING]
    request = heap[place]
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and _comes_before(core, heap[child + 1], heap[child]):
            child += 1
        if not _comes_before(core, heap[child], request):
            break
        heap[place] = heap[child]
        place = child
    heap[place] = request
