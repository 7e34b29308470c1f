"""Waiting requests: in order of arrival, or of priority."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from kvsim.policies.schedulers.request import Request


class Waiting(Protocol):
    """The requests that wait, with the one that is served next at their head."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Request]:
        """Yield the requests in the order in which they would be served."""

    def head(self) -> Request:
        """Return the request that is served next."""

    def pop(self) -> Request:
        """Take the head out and return it."""

    def add(self, request: Request) -> None:
        """Put in a request that has arrived."""

    def put_back(self, request: Request) -> None:
        """Put in a request that was taken out before: it comes first, unless an order of its own rules."""

    def remove(self, request: Request) -> None:
        """Take out one request, wherever it stands."""


class FcfsQueue:
    """First come, first served; a preempted request goes to the front."""

    __slots__ = ("_requests",)

    def __init__(self) -> None:
        self._requests: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def head(self) -> Request:
        """Return the first request."""
        return self._requests[0]

    def pop(self) -> Request:
        """Take the first request out and return it."""
        return self._requests.popleft()

    def add(self, request: Request) -> None:
        """Put a request behind all others."""
        self._requests.append(request)

    def put_back(self, request: Request) -> None:
        """Put a request before all others."""
        self._requests.appendleft(request)

    def remove(self, request: Request) -> None:
        """Take out one request, wherever it stands."""
        self._requests.remove(request)


class PriorityQueue:
    """The lowest (priority, arrival, rank of the id) first; a preempted request has no claim to the front."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, int, Request]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Request]:
        return (entry[-1] for entry in sorted(self._heap))

    def head(self) -> Request:
        """Return the request with the lowest key."""
        return self._heap[0][-1]

    def pop(self) -> Request:
        """Take out the request with the lowest key and return it."""
        return heapq.heappop(self._heap)[-1]

    def add(self, request: Request) -> None:
        """Put a request where its key belongs."""
        heapq.heappush(self._heap, (request.priority, request.arrival, request.rank, request.index, request))

    put_back = add

    def remove(self, request: Request) -> None:
        """Take out one request, wherever it stands."""
        self._heap = [entry for entry in self._heap if entry[-1] is not request]
        heapq.heapify(self._heap)
