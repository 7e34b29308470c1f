"""What a policy sees and says: one call for each step and layer of a whole batch, in arrays of dense page ids.

A policy decides and does nothing else: no clock, no bytes, no torch, no simpy, no statistics. The simulator and
the engine drive the same class at the same points with the same arguments, so its decisions are the same in both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from kvsim.types import AnyScalar, BoolArray, PageGrid, PageIds, Partition, Scores

NO_PAGES: PageIds = np.empty(0, dtype=np.int64)
NO_PAGES.flags.writeable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a policy may know before the first step: sizes and its seed, nothing of the future.

    `capacity_pages` are the device slots of the whole batch; with ``partition="per_layer"`` each layer owns
    ``capacity_pages / num_layers`` of them and a victim frees a slot of its own layer only.
    """

    grid: PageGrid
    capacity_pages: int
    partition: Partition
    prefetch_quota_pages: int
    """Most pages that one decision may prefetch."""
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One (step, layer) as a policy may see it. Every array is read-only and valid during the call only."""

    step: int
    layer: int
    selected: PageIds
    """Pages that attention reads now, ascending."""
    misses: PageIds
    """Those of `selected` that own no device slot, ascending: they are fetched whatever the plan says."""
    scores: Scores
    """The selector's scores of this layer's pages, ``[num_sequences, num_pages]``, rounded to the trace's dtype."""
    resident: BoolArray
    """Whether each page of the grid owns a device slot, ``[num_page_ids]``."""
    evictable: BoolArray
    """Resident, and neither selected now, nor pinned, nor open, ``[num_page_ids]``."""
    prefetchable: BoolArray
    """Complete pages that own no slot and are not selected now, ``[num_page_ids]``."""
    speculation: Scores | None = None
    """The next layer's scores as predicted at this layer, ``[num_sequences, num_pages]``, rounded to the trace's dtype.

    After InfiniGen (OSDI 2024). A page that the next layer is about to open has 0. None at the last layer, where all
    pages are read and none is scored, and where the policy's `reads_speculation` is not true.
    """
    free_slots: int
    """Slots with no owner once the misses have theirs (in ``per_layer``: of this layer); negative: victims due."""
    prefetch_quota: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What leaves and what comes early.

    At least ``-view.free_slots`` pages must leave (`victims`, all of them evictable) and every page of `prefetches`,
    in order of urgency, needs a slot besides.
    """

    victims: PageIds = field(default_factory=lambda: NO_PAGES)
    prefetches: PageIds = field(default_factory=lambda: NO_PAGES)


NOTHING = Plan()


class Policy(Protocol):
    """A cache policy; `kvsim.policies.POLICIES` names the built-in ones and any class of this shape may be plugged in.

    It is made as ``cls(setting, **arguments)`` with the arguments that the scenario gives.
    """

    attends: ClassVar[Literal["selection", "everything", "resident"]]
    """``everything``: attention reads all pages whatever the selector says (exact attention).

    ``resident``: it reads what the policy kept of the layer, and what left is gone: nothing is ever fetched
    (`Residency` says what changes in the view).
    """
    holds: ClassVar[Literal["budget", "everything"]]
    """``everything``: the policy ignores the budget and keeps every page on the device."""
    reads_selection: ClassVar[bool]
    """Whether deciding needs page ids and scores on the host: a synchronisation each layer."""

    def start(self, resident: PageIds) -> None:
        """Begin: `resident` are the pages on the device after prefill, ascending."""

    def decide(self, view: View) -> Plan:
        """Return the plan for one step and layer."""

    def page_opened(self, page: int) -> None:
        """Learn that a page began to fill on the device; it owns a slot."""


def read_only(array: NDArray[AnyScalar]) -> NDArray[AnyScalar]:
    """Return a view of an array that cannot be written to."""
    shown = array.view()
    shown.flags.writeable = False
    return shown


def scores_of(pages: PageIds, view: View, grid: PageGrid) -> Scores:
    """Return the view's scores of pages of its layer."""
    scores: Scores = view.scores[grid.sequence_of(pages), grid.index_of(pages)]
    return scores


def reads_speculation(policy: Policy) -> bool:
    """Return whether `policy` asks for `View.speculation` in its next decision.

    Its attribute of this name is true; absent, it is not. A policy that asks at all has it true when it is made, and
    may change it when it starts and in any decision.
    """
    return bool(getattr(policy, "reads_speculation", False))
