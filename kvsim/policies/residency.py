"""Which pages own device slots: the page table that simulator and engine share, and that plans change.

It knows no time and no bytes. It refuses a plan that breaks the protocol, so a faulty plug-in is caught at its
first wrong decision and not by a wrong figure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvsim.errors import CapacityError, PolicyError
from kvsim.kernels.pages import page_table
from kvsim.policies.base import NO_PAGES, Policy, Setting, View, read_only, reads_speculation
from kvsim.types import BoolArray, IntArray, PageIds, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What one (step, layer) did to the device, page by page; all ascending but `prefetches`, which are in order."""

    selected: PageIds
    hits: PageIds
    misses: PageIds
    victims: PageIds
    prefetches: PageIds
    opened: PageIds


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTable:
    """What `Residency` writes down, as arrays that it shares."""

    flags: BoolArray
    """Whether each page is resident, evictable, prefetchable, ``[3, num_page_ids]``."""
    num_pages: IntArray
    """Pages of each layer of each sequence, the open one included, ``[num_sequences, num_layers]``."""
    free: IntArray
    """Slots with no owner, of the pool or of each layer's, ``[num_pools]``."""


class Residency:
    """The pages of one batch on the device under one policy.

    Parameters
    ----------
    pinned_first_pages
        Pages at the start of each sequence's layer that never leave (sinks).
    pinned_last_pages
        Complete pages just before the open one that never leave (recent window).
    """

    def __init__(self, policy: Policy, setting: Setting, *, pinned_first_pages: int, pinned_last_pages: int) -> None:
        self.setting = setting
        self.policy = policy
        self._drops = policy.attends == "resident"
        self._pinned_first_pages = pinned_first_pages
        self._pinned_last_pages = pinned_last_pages
        grid = setting.grid
        self._flags: BoolArray = np.zeros((3, grid.num_pages), dtype=np.bool_)
        self.resident, self._evictable, self._prefetchable = self._flags
        self._last_place = np.zeros(grid.num_pages, dtype=np.int64)
        self._num_pages = np.zeros((grid.num_sequences, grid.num_layers), dtype=np.int64)
        self._pools = grid.num_layers if setting.partition == "per_layer" else 1
        self._pool_capacity = setting.capacity_pages // self._pools
        self._free: IntArray = np.full(self._pools, self._pool_capacity, dtype=np.int64)
        self._may_return: BoolArray = np.empty(0, dtype=np.bool_)  # all may
        self._shown_resident = read_only(self.resident)
        self._shown_evictable = read_only(self._evictable)
        self._shown_prefetchable = read_only(self._prefetchable)

    def end(self, ended: BoolArray) -> None:
        """Keep policies from prefetching pages of the sequences that have ended, ``[num_sequences]``."""
        grid = self.setting.grid
        self._may_return = np.repeat(~ended, grid.num_layers * grid.pages_per_layer)
        self._prefetchable &= self._may_return

    @property
    def page_table(self) -> PageTable:
        """The arrays themselves, for a compiled run that carries decisions out in place of `decide`."""
        return PageTable(flags=self._flags, num_pages=self._num_pages, free=self._free)

    @property
    def num_free(self) -> int:
        """Slots with no owner."""
        return int(self._free.sum())

    def start(self, num_pages: IntArray) -> PageIds:
        """Place what prefill left behind, notify the policy, and return the resident pages, ascending.

        Prefill ends with each layer of each sequence holding an equal share of the budget: its sinks, and
        then its most recent pages, whatever policy follows. `num_pages` has one entry a sequence. Where the policy
        drops pages, prefill leaves all of them, and the first decision of each layer brings it within its share.
        """
        grid = self.setting.grid
        share = int(self._pool_capacity * self._pools // (grid.num_layers * grid.num_sequences))
        for sequence in range(grid.num_sequences):
            total = int(num_pages[sequence])
            if total > grid.pages_per_layer:
                raise CapacityError(f"sequence {sequence} has {total} pages, the grid holds {grid.pages_per_layer}")
            num_first = min(self._pinned_first_pages, total)
            num_last = total - num_first if self._drops else min(max(share - num_first, 0), total - num_first)
            for layer in range(grid.num_layers):
                first = grid.first_page(sequence=sequence, layer=layer)
                self._prefetchable[first : first + total] = True
                ids = np.concatenate(
                    (np.arange(first, first + num_first), np.arange(first + total - num_last, first + total))
                )
                self._admit(ids, layer)
                self._num_pages[sequence, layer] = total
                self._repin(sequence, layer)
        resident: PageIds = np.flatnonzero(self.resident)
        self.policy.start(read_only(resident))
        return resident

    def decide(
        self,
        *,
        step: int,
        layer: int,
        selected: PageIds,
        scores: Scores,
        num_pages: IntArray,
        speculation: Scores | None = None,
    ) -> Decision:
        """Run the policy for one step and layer and carry out its plan in the page table.

        Parameters
        ----------
        selected
            Pages that attention reads now, ascending, the open ones among them.
        num_pages
            Pages of this layer of each sequence now, the open one included, ``[num_sequences]``; a growth by one
            since the last step opens a page, which takes a slot before anything is selected. 0 for a sequence that has
            ended: it selects nothing.
        speculation
            The next layer's scores as predicted here; the policy sees them if it asks for them.

        Notes
        -----
        Where the policy drops pages (``attends = "resident"``) it is shown all that the layer still has as
        ``view.selected``, of which it may name victims, and ``view.free_slots`` is what is left of the layer's share of
        the budget, negative where pages must leave. What remains is the selection; `selected` plays no part.
        """
        opened = self._open_pages(layer, num_pages)
        if self._drops:
            return self._drop(step=step, layer=layer, scores=scores, num_pages=num_pages, opened=opened)
        hits, misses, were_evictable = page_table.select(self._flags, selected)
        pool = layer if self._pools > 1 else 0
        is_shown = speculation is not None and reads_speculation(self.policy)
        plan = self.policy.decide(
            View(
                step=step,
                layer=layer,
                selected=read_only(selected),
                misses=read_only(misses),
                scores=read_only(scores),
                speculation=read_only(speculation) if is_shown and speculation is not None else None,
                resident=self._shown_resident,
                evictable=self._shown_evictable,
                prefetchable=self._shown_prefetchable,
                free_slots=int(self._free[pool]) - misses.size,
                prefetch_quota=self.setting.prefetch_quota_pages,
            )
        )
        victims = np.sort(np.asarray(plan.victims, dtype=np.int64))
        prefetches = np.array(plan.prefetches, dtype=np.int64)
        quota = self.setting.prefetch_quota_pages if self.policy.attends == "selection" else prefetches.size
        outcome = page_table.carry_out(
            self._flags,
            self._free,
            self._last_place,
            (hits, misses, were_evictable),
            (victims, prefetches, quota),
            self._may_return,
            (layer, self.setting.grid.pages_per_layer, self.setting.grid.num_layers),
        )
        if outcome != page_table.CARRIED_OUT:
            self._refuse(outcome, step, layer, misses, victims, prefetches)
        return Decision(
            selected=selected, hits=hits, misses=misses, victims=victims, prefetches=prefetches, opened=opened
        )

    def _refuse(
        self, outcome: int, step: int, layer: int, misses: PageIds, victims: PageIds, prefetches: PageIds
    ) -> None:
        """Say what is wrong with a plan that was not carried out, or left pages without a slot."""
        if outcome == page_table.UNSOUND:
            self.check(plan_victims=victims, prefetches=prefetches, step=step, layer=layer)
        self.check_slots(step, layer, num_victims=victims.size, num_misses=misses.size, num_prefetches=prefetches.size)
        raise RuntimeError("the compiled page table refuses a plan that the plain one accepts")

    def _drop(self, *, step: int, layer: int, scores: Scores, num_pages: IntArray, opened: PageIds) -> Decision:
        """Let the policy drop pages of a layer for good; attention reads the others."""
        grid = self.setting.grid
        share = self.setting.capacity_pages // (grid.num_layers * grid.num_sequences)
        rows = grid.of_layer(self.resident, layer)
        held = grid.layer_pages(layer, rows)
        plan = self.policy.decide(
            View(
                step=step,
                layer=layer,
                selected=read_only(held),
                misses=NO_PAGES,
                scores=read_only(scores),
                resident=self._shown_resident,
                evictable=self._shown_evictable,
                prefetchable=self._shown_prefetchable,
                free_slots=share * grid.num_sequences - held.size,
                prefetch_quota=0,
            )
        )
        victims = np.sort(np.asarray(plan.victims, dtype=np.int64))
        self.check(plan_victims=victims, prefetches=np.asarray(plan.prefetches), step=step, layer=layer)
        where = f"{self._name}: step {step}, layer {layer}"
        if plan.prefetches.size or (grid.layer_of(victims) != layer).any():
            raise PolicyError(f"{where}: a policy that drops may only drop pages of this layer, and fetch none")
        self._release(victims, layer)
        num_held = np.count_nonzero(rows, axis=1)
        if (num_held > share).any():
            raise PolicyError(
                f"{where}: keeps {int(num_held.max())} pages of a sequence, its share of the budget is {share}"
            )
        selected = np.setdiff1d(held, victims, assume_unique=True)
        if not num_pages.all():
            selected = selected[num_pages[grid.sequence_of(selected)] > 0]
        return Decision(
            selected=selected, hits=selected, misses=NO_PAGES, victims=victims, prefetches=NO_PAGES, opened=opened
        )

    def check_slots(self, step: int, layer: int, *, num_victims: int, num_misses: int, num_prefetches: int) -> None:
        """Refuse a plan, carried out already, that left pages without a slot.

        Raises
        ------
        PolicyError
            If more slots are owned than there are.
        """
        if (self._free < 0).any():
            raise PolicyError(
                f"{self._name}: step {step}, layer {layer}: {num_victims} victims leave {-int(self._free.min())} "
                f"pages without a slot ({num_misses} misses, {num_prefetches} prefetches)"
            )

    @property
    def _name(self) -> str:
        return getattr(self.policy, "shown_name", f"policy {type(self.policy).__name__}")

    def _open_pages(self, layer: int, num_pages: IntArray) -> PageIds:
        grown = num_pages > self._num_pages[:, layer]
        if not grown.any():
            return NO_PAGES
        opened = []
        for sequence in np.flatnonzero(grown):
            grid = self.setting.grid
            page = grid.first_page(sequence=int(sequence), layer=layer) + int(num_pages[sequence]) - 1
            self._num_pages[sequence, layer] = num_pages[sequence]
            self.resident[page] = True
            self._free[layer if self._pools > 1 else 0] -= 1
            self._repin(int(sequence), layer)
            self.policy.page_opened(page)
            opened.append(page)
        return np.array(opened, dtype=np.int64)

    def _repin(self, sequence: int, layer: int) -> None:
        """Mark sinks, recent window and open page as not evictable, and free the page that left the window."""
        first = self.setting.grid.first_page(sequence=sequence, layer=layer)
        total = int(self._num_pages[sequence, layer])
        window = total - 1 - self._pinned_last_pages
        low = max(window - 1, self._pinned_first_pages)
        if low < window:
            page = first + low
            self._evictable[page] = self.resident[page]
        self._evictable[first : first + min(self._pinned_first_pages, total)] = False
        self._evictable[first + max(window, 0) : first + total] = False
        self._prefetchable[first + total - 1] = False

    def _admit(self, pages: PageIds, layer: int) -> None:
        self.resident[pages] = True
        self._evictable[pages] = True
        self._prefetchable[pages] = False
        self._free[layer if self._pools > 1 else 0] -= pages.size

    def _release(self, pages: PageIds, layer: int) -> None:
        self.resident[pages] = False
        self._evictable[pages] = False
        self._prefetchable[pages] = self._may_return[pages] if self._may_return.size else True
        self._free[layer if self._pools > 1 else 0] += pages.size

    def check(self, *, plan_victims: PageIds, prefetches: PageIds, step: int, layer: int) -> None:
        """Refuse a plan that breaks the protocol; `plan_victims` ascend.

        Raises
        ------
        PolicyError
            Naming the step, the layer and the first wrong page.
        """
        where = f"{self._name}: step {step}, layer {layer}"
        named = np.concatenate((plan_victims, prefetches))
        unknown = named[(named < 0) | (named >= self._evictable.size)]
        if unknown.size:
            raise PolicyError(f"{where}: there is no page {int(unknown[0])}, the last is {self._evictable.size - 1}")
        if plan_victims.size and not bool(self._evictable[plan_victims].all()):
            page = int(plan_victims[~self._evictable[plan_victims]][0])
            raise PolicyError(f"{where}: victim {page} may not leave (selected, pinned, open or not on the device)")
        if plan_victims.size > 1 and bool((plan_victims[1:] == plan_victims[:-1]).any()):
            raise PolicyError(f"{where}: a victim is named twice")
        if not prefetches.size:
            return
        if not bool(self._prefetchable[prefetches].all()):
            page = int(prefetches[~self._prefetchable[prefetches]][0])
            raise PolicyError(f"{where}: page {page} cannot be prefetched (on the device, selected, open or not there)")
        order = np.arange(prefetches.size)
        self._last_place[prefetches] = order
        if bool((self._last_place[prefetches] != order).any()):
            raise PolicyError(f"{where}: a page is prefetched twice")
        if self.policy.attends == "selection" and prefetches.size > self.setting.prefetch_quota_pages:
            raise PolicyError(
                f"{where}: {prefetches.size} prefetches, the quota is {self.setting.prefetch_quota_pages}"
            )
