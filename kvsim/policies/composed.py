"""The composition that most policies are: evictor (who leaves), prefetcher (who comes early), admission (whom to keep).

Each part is a small class that is made as ``cls(setting, **arguments)`` and knows nothing of the others. A miss is
fetched whatever they say, because attention needs the page now; admission can only say how long it stays.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

import numpy as np

from kvsim.errors import PolicyError
from kvsim.policies.base import NO_PAGES, NOTHING, Plan, Setting, View
from kvsim.policies.evictors.pools import Pools
from kvsim.policies.future import Future, Oracle
from kvsim.policies.plug_ins import PlugIn
from kvsim.types import BoolArray, PageIds


class Evictor(Protocol):
    """Orders the pages that own slots by who should leave first, the pages of each pool (`Pools`) on their own.

    A page *arrives* when it gets a slot without being read: what prefill left, a page that opens, a prefetched one.
    Its first reading is then no second one: `touch` brings it to where a miss begins.
    """

    def arrived(self, pages: PageIds) -> None:
        """Take in pages that own a slot from now on and were not read yet, oldest first."""

    def touch(self, view: View) -> None:
        """Learn that ``view.selected`` are read now; those in ``view.misses`` get their slots now."""

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return and forget the first `count` pages to leave of `pool`, worst first; fewer if there are no more.

        Only pages of the pool in ``view.evictable`` and not in `spared`, ``[num_page_ids]``; ties to the smallest id.
        """

    def left(self, pages: PageIds) -> None:
        """Forget pages that leave by another's choice."""


class Prefetcher(Protocol):
    """Says what is worth having before it is read.

    A prefetcher may have a method ``fetched(pages)`` besides: it learns which pages of those it wanted found slots.
    """

    reads_speculation: ClassVar[bool]
    """Whether it needs ``view.speculation``, which costs time to make."""

    def start(self, resident: PageIds) -> None:
        """Begin: `resident` are the pages on the device after prefill, ascending."""

    def opened(self, page: int) -> None:
        """Learn that a page began to fill on the device."""

    def wanted(self, view: View) -> PageIds:
        """Return pages in ``view.prefetchable``, the most urgent first, at most ``view.prefetch_quota``.

        Called in every decision, also where the quota is 0: it is where a prefetcher learns.
        """

    def spared(self, view: View) -> BoolArray | None:
        """Return the pages that leave last, ``[num_page_ids]``: those it expects to be read soon, or None.

        No prefetch pushes them out, and a miss only where no other page may leave. Called after `candidates`.
        """

    def left(self, victims: PageIds) -> None:
        """Learn which pages leave the device."""


class Admission(Protocol):
    """Says which of the pages that came are only on trial."""

    def touch(self, view: View) -> None:
        """Learn what is read now, and what comes for it."""

    def first_out(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return up to `count` pages that leave before any that the evictor would name; as `Evictor.victims` does."""

    def left(self, victims: PageIds) -> None:
        """Forget pages that leave the device."""


class Paged:
    """Fetch misses on demand; an evictor makes room, a prefetcher fetches ahead, an admission keeps pages on trial.

    In one decision: all parts learn what is read; the victims that the misses need leave, pages that the prefetcher
    spares last; then each wanted page comes into a free slot or pushes out a page that is not spared, in order of
    urgency, as far as there are any. With a pool a layer, a page takes a slot of its own layer and pushes out a page of
    its own layer.
    """

    attends: ClassVar[Literal["selection", "everything", "resident"]] = "selection"
    holds: ClassVar[Literal["budget", "everything"]] = "budget"
    reads_selection: ClassVar[bool] = True

    def __init__(self, setting: Setting, evictor: Evictor, prefetcher: Prefetcher, admission: Admission) -> None:
        self.evictor = evictor
        self.prefetcher = prefetcher
        self.admission = admission
        self.reads_speculation = prefetcher.reads_speculation
        foreign = [part.shown_name for part in (evictor, prefetcher, admission) if isinstance(part, PlugIn)]
        self.shown_name = foreign[0] if foreign else f"policy {type(evictor).__name__}"
        self._oracles = [part for part in (evictor, prefetcher, admission) if isinstance(part, Oracle)]
        self.is_oracle = any(part.is_oracle for part in self._oracles)
        self._has_future = False
        self._notify_fetched = getattr(prefetcher, "fetched", None)
        self._grid = setting.grid
        self._pools = Pools(setting)
        self._blocked: BoolArray = np.zeros(setting.grid.num_pages, dtype=np.bool_)

    def foresee(self, future: Future) -> None:
        """Hand the future to the parts that are oracles."""
        self._has_future = True
        for part in self._oracles:
            part.foresee(future)

    def start(self, resident: PageIds) -> None:
        """Notify the parts of what prefill left behind.

        Raises
        ------
        PolicyError
            If a part is an oracle and nobody handed it the future.
        """
        if self.is_oracle and not self._has_future:
            names = ", ".join(getattr(part, "shown_name", type(part).__name__) for part in self._oracles)
            raise PolicyError(f"{names}: a bound needs the future, which only a simulation or a repeated run can give")
        self.evictor.arrived(resident)
        self.prefetcher.start(resident)

    def page_opened(self, page: int) -> None:
        """Notify the parts that a page began to fill."""
        self.evictor.arrived(np.array([page], dtype=np.int64))
        self.prefetcher.opened(page)

    def decide(self, view: View) -> Plan:
        """Return who leaves and who comes early."""
        self.evictor.touch(view)
        self.admission.touch(view)
        candidates = self.prefetcher.wanted(view)
        spared = self.prefetcher.spared(view)
        victims, prefetches = self._make_room(view, candidates, spared)
        if prefetches.size:
            self.evictor.arrived(prefetches)
            if self._notify_fetched is not None:
                self._notify_fetched(prefetches)
        if not victims.size and not prefetches.size:
            return NOTHING
        self.prefetcher.left(victims)
        return Plan(victims=victims, prefetches=prefetches)

    def _make_room(self, view: View, candidates: PageIds, spared: BoolArray | None) -> tuple[PageIds, PageIds]:
        """Return who leaves, and the prefetches that find a slot."""
        if self._pools.count == 1:
            gone = self._leaving(view, 0, view.free_slots, candidates.size, spared)
            return gone, candidates[: max(0, view.free_slots + gone.size)]
        layers = self._grid.layer_of(candidates)
        comes = np.ones(candidates.size, dtype=np.bool_)
        left = []
        for layer in sorted({view.layer, *layers.tolist()}):
            of_layer = np.flatnonzero(layers == layer)
            free_slots = view.free_slots if layer == view.layer else self._pools.num_free(view.resident, layer)
            gone = self._leaving(view, layer, free_slots, of_layer.size, spared)
            comes[of_layer[max(0, free_slots + gone.size) :]] = False
            left.append(gone)
        return np.concatenate(left), candidates[comes]

    def _leaving(
        self, view: View, pool: int, free_slots: int, num_candidates: int, spared: BoolArray | None
    ) -> PageIds:
        """Return who leaves one pool: spared pages only for misses, where no others are left."""
        due = max(0, -free_slots)
        gone = self._victims(view, pool, max(due, num_candidates - free_slots), spared)
        if spared is None or gone.size >= due:
            return gone
        return np.concatenate((gone, self._victims(view, pool, due - gone.size, ~spared)))

    def _victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        if count <= 0:
            return NO_PAGES
        first = self.admission.first_out(view, pool, count, spared)
        if first.size:
            self.evictor.left(first)
        if first.size == count:
            return first
        rest = self.evictor.victims(view, pool, count - first.size, self._but(spared, first))
        self.admission.left(rest)
        return np.concatenate((first, rest)) if first.size else rest

    def _but(self, spared: BoolArray | None, gone: PageIds) -> BoolArray | None:
        """Return `spared` and the pages that are let go already, which `view.evictable` still shows."""
        if not gone.size:
            return spared
        self._blocked[:] = False if spared is None else spared
        self._blocked[gone] = True
        return self._blocked
