"""When the requests of a workload arrive, counted in steps of the engine."""

from __future__ import annotations

import heapq

from kvsim.errors import TraceError
from kvsim.experiments.serving.schedules.workload import OutputSegment, Workload


class ArrivalsByStep:
    """The requests that have not arrived yet.

    A request arrives before a step of its own, or some steps after another one has finished. An idle engine takes no
    steps: its next arrivals come at once.
    """

    def __init__(self, workload: Workload) -> None:
        self._requests = workload.requests
        places = {request.id: place for place, request in enumerate(workload.requests)}
        self._due: list[tuple[int, int]] = []
        self._followers: dict[int, list[tuple[int, int]]] = {}
        self._sources: dict[int, set[int]] = {}
        self._finished: set[int] = set()
        for place, request in enumerate(workload.requests):
            if request.after is not None:
                self._followers.setdefault(places[request.after[0]], []).append((place, request.after[1]))
            elif request.arrival_step is not None:
                self._due.append((request.arrival_step, place))
            self._sources[place] = {
                places[piece.output_of] for piece in request.segments if isinstance(piece, OutputSegment)
            }
        heapq.heapify(self._due)
        self._num_left = len(workload.requests)

    def __len__(self) -> int:
        return self._num_left

    def take(self, step: int, *, is_idle: bool) -> list[int]:
        """Return the requests that arrive before a step, in order.

        Raises
        ------
        TraceError
            If the engine is idle and nobody can ever arrive, or a prompt has outputs that do not exist yet.
        """
        if is_idle and self._num_left:
            if not self._due:
                raise TraceError("workload", "the requests that are left wait for each other's end")
            step = max(step, self._due[0][0])
        arrived = []
        while self._due and self._due[0][0] <= step:
            arrived.append(heapq.heappop(self._due)[1])
        self._num_left -= len(arrived)
        for place in arrived:
            early = self._sources[place] - self._finished
            if early:
                name, source = self._requests[place].id, self._requests[min(early)].id
                problem = f"its prompt has outputs of {source!r}, which has not finished when it arrives (step {step})"
                raise TraceError(f"request {name!r}", problem)
        return arrived

    def finish(self, place: int, step: int) -> None:
        """Note that a request finished in a step: whoever comes after it has a step of arrival now."""
        self._finished.add(place)
        for follower, delay in self._followers.pop(place, ()):
            heapq.heappush(self._due, (step + delay, follower))
