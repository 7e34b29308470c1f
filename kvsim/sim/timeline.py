"""What each player does when, kept only where somebody wants to see it: the spans of a simulated run."""

from __future__ import annotations

from typing import TypeAlias

from kvsim.types import Lane, Span

Place: TypeAlias = tuple[int, int | None]
"""Step and layer; no layer where the work is no layer's."""

SHORTEST_S = 1e-12
"""Anything shorter is the rounding of two equal times."""


class Timeline:
    """Collects spans of a run; whoever keeps none passes None for it."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def computed(
        self, segment: str, place: Place, free_s: float, ready_s: float, start_s: float, busy_s: float, end_s: float
    ) -> None:
        """Add one segment with what the compute stream waited for before and after it.

        It was free from `free_s`, launched by `ready_s`, had its pages at `start_s`, its work done at `busy_s`, and the
        host let it end at `end_s`.
        """
        self._add("compute", "host", place, free_s, ready_s)
        self._add("compute", "stall", place, ready_s, start_s)
        self._add("compute", segment, place, start_s, busy_s)
        self._add("compute", "host", place, busy_s, end_s)

    def hosted(self, name: str, place: Place, start_s: float, end_s: float) -> None:
        """Add what the host thread did."""
        self._add("host", name, place, start_s, end_s)

    def copied(
        self,
        lane: Lane,
        place: Place,
        start_s: float,
        end_s: float,
        *,
        is_demand: bool,
        num_pages: int,
        submitted_s: float,
    ) -> None:
        """Add one transfer that has arrived."""
        kind = "write-back" if lane == "to host" else "demand" if is_demand else "prefetch"
        self._add(lane, kind, place, start_s, end_s, num_pages=num_pages, submitted_s=submitted_s)

    def _add(
        self,
        lane: Lane,
        name: str,
        place: Place,
        start_s: float,
        end_s: float,
        *,
        num_pages: int | None = None,
        submitted_s: float | None = None,
    ) -> None:
        if end_s - start_s < SHORTEST_S:
            return
        step, layer = place
        self.spans.append(
            Span(
                lane=lane,
                name=name,
                start_s=start_s,
                end_s=end_s,
                step=step,
                layer=layer,
                num_pages=num_pages,
                submitted_s=submitted_s,
            )
        )
