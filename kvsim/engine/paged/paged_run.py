"""One decode run of a batch on pages: the order of a layer's work, from the query to the attention output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kvsim.engine.links.base import Link, Transfer
from kvsim.engine.links.page_pool import NOWHERE, PagePool
from kvsim.engine.model.families import Queries, weightings_of
from kvsim.engine.model.held import held_by
from kvsim.engine.paged.attention import attend_pages
from kvsim.engine.paged.copying import copy_whole
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.engine.paged.prefill import Snapshot
from kvsim.engine.paged.scoring import Scoring, Seen, choose
from kvsim.engine.paged.speculation import Speculation
from kvsim.engine.paged.stamps import Stamps
from kvsim.engine.paged.tally import Tally, check_agreement
from kvsim.engine.paged.traffic import Traffic
from kvsim.engine.paged.visible import Visible
from kvsim.errors import CapacityError
from kvsim.policies.base import NO_PAGES, reads_speculation
from kvsim.policies.residency import Decision, Residency
from kvsim.types import BoolArray, IntArray, PageIds


class Observer(Protocol):
    """Looks on at every layer, untimed; see `kvsim.engine.capture.decode_trace`."""

    def layer(
        self,
        layer: int,
        seen: Seen,
        selected: PageIds,
        query: torch.Tensor,
        slots: IntArray,
        unfilled_tokens: IntArray,
    ) -> None:
        """See what attention is about to read, the last page of each sequence short of `unfilled_tokens`."""

    def end_step(self, sequence_tokens: IntArray) -> None:
        """See that a step ended; `sequence_tokens` are those of each sequence, ``[num_sequences]``."""


class PagedRun:
    """Appends and attends for every layer of a model, one token a sequence and step.

    A layer passes these points, in this order; the stamps of `kvsim.engine.paged.stamps` lie between them:
    *speculate* (score the next layer's pages, if anybody asks), *select* (widen the open page's summary, score all
    pages, round to float16), *sync* (scores to the host), *choose* (the selector), *decide* (`Residency.decide`),
    *submit* (late pages looked up; slots freed and taken and transfers handed over, if any: demand, then prefetches,
    then write-backs), *stall* (wait for what attention reads), *attention* (page table and policy compared, tags
    checked, reads counted, pages gathered, attention).
    """

    def __init__(
        self,
        model: Any,
        run_input: DecodeInput,
        snapshot: Snapshot,
        pool: PagePool,
        link: Link,
        stamps: Stamps | None,
    ) -> None:
        self.run_input = run_input
        self.context_tokens = snapshot.prompt_tokens
        """Tokens of the longest sequence; those that have ended are counted on, as a cache that pads them does."""
        self.sequence_tokens = snapshot.sequence_tokens
        """Tokens of each sequence, those of the pass under way not counted, ``[num_sequences]``."""
        self._is_even = snapshot.unequal_tokens is None
        self.tally = Tally(len(pool.tag_of), run_input.num_steps, pool.page_bytes)
        self.observer: Observer | None = None
        self._visible: Visible | None = None
        self._going_on: IntArray = np.arange(run_input.setting.grid.num_sequences)  # sequences that have not ended
        self._grid = run_input.setting.grid
        self._weightings = weightings_of(model)
        self._queries = Queries(model)
        self._held = held_by(model.config)
        self._pool = pool
        self.link = link
        self._stamps = stamps
        self._spare_slots = pool.num_free - run_input.setting.capacity_pages
        whole_layers = run_input.policy.attends == "everything"
        self._traffic = Traffic(pool, link, self.tally, chunk_pages=None if whole_layers else run_input.chunk_pages)
        self._scoring = self._make_scoring(model, snapshot) if run_input.scores_pages else None
        self._open_slots: IntArray = np.full((self._grid.num_layers, self._grid.num_sequences), NOWHERE)
        self._open_indices: list[torch.Tensor | None] = [None] * self._grid.num_layers
        self._opened: PageIds = np.empty(0, dtype=np.int64)
        self._key: torch.Tensor | None = None
        self._residency = Residency(
            run_input.policy,
            run_input.setting,
            pinned_first_pages=run_input.pinned_first_pages,
            pinned_last_pages=run_input.pinned_last_pages,
        )
        self._place_prompt(snapshot)

    def copied(self, run_input: DecodeInput, make_link: Callable[[PagePool], Link], memo: dict[int, Any]) -> PagedRun:
        """Return the same run on pools and a link of its own, between two steps.

        Parameters
        ----------
        run_input
            What the copy decides by: its policy is the copy of this run's.
        memo
            As of `copy.deepcopy`: what is in it is not copied again.
        """
        transfers = self.link.drain()
        pool = self._pool.copied()
        link = make_link(pool)
        link.remember(transfers)
        memo |= {id(transfer): transfer for transfer in transfers}  # done, and never changed again
        memo |= {id(self.run_input): run_input, id(self._pool): pool, id(self.link): link, id(self._key): None}
        copied = PagedRun.__new__(PagedRun)
        copied.__dict__.update(copy_whole(self.__dict__, memo))
        return copied

    def flush(self) -> None:
        """Bring to host memory what only the device holds; no transfer may be under way."""
        self._pool.flush()

    @property
    def num_unread(self) -> tuple[int, ...]:
        """Slots of each device whose page was prefetched and not read yet."""
        return (self.tally.num_unread,)

    def counts(self, num_steps: int, num_unread: tuple[int, ...]) -> dict[str, NDArray[np.int64]]:
        """Return the finished counts of the first `num_steps` steps, at whose end `num_unread` was as given.

        Other threads may call it while one decodes.
        """
        tally = self.tally.until(num_steps, *num_unread)
        tally.finish([transfer for transfer in list(self.link.drain()) if transfer.step < num_steps])
        return tally.columns

    @property
    def pool(self) -> PagePool:
        """Slots and host pages."""
        return self._pool

    @property
    def host_tokens(self) -> torch.Tensor:
        """Keys and values in host memory, ``[num_sequences, num_layers, tokens, 2, num_kv_heads, head_dim]``."""
        return self._pool.host_tokens

    @property
    def speculation(self) -> Speculation | None:
        """What predicts the next layer's scores: it wants to hear the layers (`speculation.listen`)."""
        return self._scoring.speculation if self._scoring is not None else None

    def _make_scoring(self, model: Any, snapshot: Snapshot) -> Scoring:
        run_input = self.run_input
        return Scoring(
            model,
            self._grid,
            snapshot,
            channel=run_input.channel,
            page_tokens=run_input.page_tokens,
            device=str(self._pool.slots.device),
            predicts=run_input.predicts,
            shows_speculation=run_input.records_speculation or reads_speculation(run_input.policy),
        )

    def _place_prompt(self, snapshot: Snapshot) -> None:
        """Put what prefill left where it belongs: whole pages on the host, the first residents on the device."""
        grid, page_tokens = self._grid, self.run_input.page_tokens
        num_whole, rest = np.divmod(snapshot.sequence_tokens, page_tokens)
        num_pages = num_whole + (rest > 0)
        by_layer = self._pool.is_on_host.reshape(grid.num_sequences, grid.num_layers, grid.pages_per_layer)
        by_layer[:] = np.arange(grid.pages_per_layer) < num_whole[:, None, None]
        resident = self._residency.start(num_pages)
        self._pool.place(resident)
        for layer in range(grid.num_layers):
            self._open_slots[layer] = self._pool.slot_of[self._first_pages(layer)[:-1] + num_pages - 1]
        if (self._open_slots[:, rest > 0] == NOWHERE).any():
            raise CapacityError("the budget does not hold the open pages; give each layer of each sequence one or more")

    def show(self, visible: Visible | None) -> None:
        """Let attention read what is `visible` in the step under way; everything where it is None."""
        self._visible = visible
        if visible is not None and visible.ended.any():
            self.end_sequences(visible.ended)
            self._size_up()

    def end_sequences(self, ended: BoolArray) -> None:
        """Let sequences take and read no more pages from the next step on, ``[num_sequences]``."""
        self._going_on = np.flatnonzero(~ended)
        self._open_indices = [None] * self._grid.num_layers
        self._residency.end(ended)

    def _size_up(self) -> None:
        """Work out, for all layers of the step under way, the pages of each sequence; 0 for one that has ended."""
        page_tokens, going_on = self.run_input.page_tokens, self._going_on
        index, place = np.divmod(self.sequence_tokens[going_on], page_tokens)
        self._num_pages = np.zeros(self._grid.num_sequences, dtype=np.int64)
        self._num_pages[going_on] = index + 1
        self._known_pages = self._num_pages.copy()
        self._known_pages[going_on] -= place == 0
        self._unfilled_tokens = -(self.sequence_tokens + 1) % page_tokens
        self._opening, self._filled = going_on[place == 0], going_on[place == page_tokens - 1]
        # where the new token goes in each open page: one number if it is the same in all
        self._place: int | torch.Tensor
        if self._is_even and place.size:
            self._place = int(place[0])
        else:
            self._place = torch.from_numpy(place).to(self._pool.slots.device, non_blocking=True)

    def begin(self, step: int) -> None:
        """Start a step: the new token is not yet counted in `context_tokens`."""
        self._size_up()
        self._step = step
        self._traffic.step = step
        self.tally.begin(step)

    def end(self) -> None:
        """End a step: every sequence that has not ended is one token longer."""
        self.context_tokens += 1
        self.sequence_tokens[self._going_on] += 1
        if self.observer is not None:
            self.observer.end_step(self.sequence_tokens)

    def update(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new token of each sequence into its open page, opening one where the last is full.

        Just that token is handed to attention, as a transformers cache does.
        """
        if self._opening.size:
            self._open(layer)
        slots, place = self._pool.slots, self._place
        going_on: slice | torch.Tensor = slice(None)
        if len(self._going_on) < self._grid.num_sequences:
            going_on = torch.from_numpy(self._going_on).to(slots.device)
        if self._held.latent_numbers is not None:
            slots[self._open_index(layer), place] = self._held.planes(key, value)[going_on, 0]
        elif self._grid.num_sequences == 1:
            slot = int(self._open_slots[layer, 0])
            slots[slot, place, 0] = key[0, :, 0]
            slots[slot, place, 1] = value[0, :, 0]
        else:
            slots[self._open_index(layer), place] = torch.stack((key[going_on, :, 0], value[going_on, :, 0]), dim=1)
        self._key = self._held.key(key, value)
        return key, value

    def _open_index(self, layer: int) -> torch.Tensor:
        """Return the slots of the open pages that tokens still come to, on the device, brought there once a page."""
        index = self._open_indices[layer]
        if index is None:
            open_slots = self._open_slots[layer, self._going_on]
            index = torch.from_numpy(open_slots).to(self._pool.slots.device, non_blocking=True)
            self._open_indices[layer] = index
        return index

    def _open(self, layer: int) -> None:
        self._opened = self._first_pages(layer)[self._opening] + self._num_pages[self._opening] - 1
        for sequence, page in zip(self._opening.tolist(), self._opened.tolist(), strict=True):
            self._open_slots[layer, sequence] = self._traffic.open_page(page)
        self._open_indices[layer] = None

    def attend(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        """Select, decide, move, wait and attend: ``[num_sequences, 1, num_heads, head_dim]``."""
        self._mark()
        query = self._queries.inward(layer, query)
        predicted = None
        if self._scoring is not None and self.run_input.predicts:
            predicted = self._scoring.predict(layer, self._known_pages, self._num_pages)
        self._mark()
        seen, selected = self._select(layer, query, predicted)
        self._mark()
        decision = self._decide(layer, seen, selected)
        selected = decision.selected
        self._mark()
        misses = selected[self._pool.slot_of[selected] == NOWHERE]
        waits_for, demand = self._submit(layer, decision)
        self._mark()
        if waits_for:
            self.link.wait(waits_for)
        self._mark()
        # A policy that drops brings one layer after the other within the budget, all of them in the first step.
        spare_slots = 0 if self.run_input.drops and self._step == 0 else self._spare_slots
        check_agreement(decision, misses, self._opened, self._pool.num_free, spare_slots)
        self._opened = self._opened[:0]
        self.tally.digest(selected, misses, decision.victims, decision.prefetches)
        output = self._queries.outward(layer, self._read(layer, seen, decision, demand, query))
        self._mark()
        return output

    def _select(self, layer: int, query: torch.Tensor, predicted: torch.Tensor | None) -> tuple[Seen, PageIds]:
        grid, selector, num_pages = self._grid, self.run_input.selector, self._num_pages
        if self._scoring is None or selector is None:
            self._mark()
            seen = Seen(scores=np.zeros((grid.num_sequences, int(num_pages.max())), dtype=np.float16))
            self._mark()
            chosen = [np.arange(count) for count in num_pages.tolist()]
        else:
            assert self._key is not None
            on_device = self._scoring.score(layer, self._key, query, num_pages, predicted)
            self._mark()
            seen = self._scoring.read(on_device)
            if self._visible is not None:
                seen = seen.shown(self._visible)
            self._mark()
            chosen = [choose(selector, row, count) for row, count in zip(seen.scores, num_pages.tolist(), strict=True)]
        if self._visible is not None:
            chosen = self._visible.readable(chosen)
        ids = [grid.first_page(sequence=s, layer=layer) + indices for s, indices in enumerate(chosen)]
        return seen, ids[0] if len(ids) == 1 else np.concatenate(ids)

    def _decide(self, layer: int, seen: Seen, selected: PageIds) -> Decision:
        """Ask the policy; one that keeps everything has nothing to say, and is not asked."""
        if self.run_input.policy.holds == "everything":
            return Decision(
                selected=selected,
                hits=selected,
                misses=NO_PAGES,
                victims=NO_PAGES,
                prefetches=NO_PAGES,
                opened=self._opened,
            )
        return self._residency.decide(
            step=self._step,
            layer=layer,
            selected=selected,
            scores=seen.scores,
            speculation=seen.speculation,
            num_pages=self._num_pages,
        )

    def _submit(self, layer: int, decision: Decision) -> tuple[list[Transfer], Transfer | None]:
        traffic = self._traffic
        waits_for = traffic.late(decision.hits)
        demand = None
        if decision.victims.size or decision.misses.size or decision.prefetches.size:
            demand = traffic.submit(decision)
        if demand is not None:
            waits_for.append(demand)
        writes_back = self.run_input.policy.holds == "budget" and not self.run_input.drops
        if writes_back and self._filled.size:
            traffic.write_back(self._first_pages(layer)[self._filled] + self._num_pages[self._filled] - 1)
        return waits_for, demand

    def _read(
        self,
        layer: int,
        seen: Seen,
        decision: Decision,
        demand: Transfer | None,
        query: torch.Tensor,
    ) -> torch.Tensor:
        """Check every slot's tag, count what is read, and attend."""
        pool, run_input, weighting = self._pool, self.run_input, self._weightings[layer]
        slots = pool.slot_of[decision.selected]
        pool.check(decision.selected, slots)
        self.tally.read(slots, self._traffic.number_of(demand))
        unfilled = self._unfilled_tokens
        if self.observer is not None:
            self.observer.layer(layer, seen, decision.selected, query, slots, unfilled)
        indices = torch.from_numpy(slots).to(pool.slots.device, non_blocking=True)
        bounds = np.searchsorted(decision.selected, self._first_pages(layer))
        counts = np.diff(bounds)
        if self._is_even and (counts == counts[0]).all():
            num_tokens = int(counts[0]) * run_input.page_tokens - int(unfilled[0])
            shown = self._shown(decision.selected, num_tokens, None)
            return attend_pages(query, pool.slots, indices.view(len(counts), -1), num_tokens, weighting, shown)
        parts = []
        for sequence, count in enumerate(counts.tolist()):
            own, part = query[sequence : sequence + 1], slice(bounds[sequence], bounds[sequence + 1])
            if count == 0:  # it has ended: nobody reads what comes of it
                parts.append(torch.zeros_like(own).transpose(1, 2))
                continue
            num_tokens = count * run_input.page_tokens - int(unfilled[sequence])
            shown = self._shown(decision.selected[part], num_tokens, sequence)
            parts.append(attend_pages(own, pool.slots, indices[None, part], num_tokens, weighting, shown))
        return torch.cat(parts)

    def _shown(self, selected: PageIds, num_tokens: int, sequence: int | None) -> torch.Tensor | None:
        """Return which tokens of the selected pages are visible, as many pages of each sequence; None for all."""
        if self._visible is None:
            return None
        num_rows = self._grid.num_sequences if sequence is None else 1
        indices = (selected % self._grid.pages_per_layer).reshape(num_rows, -1)
        return self._visible.mask(indices, num_tokens, sequence).to(self._pool.slots.device)

    def _first_pages(self, layer: int) -> IntArray:
        grid = self._grid
        return np.array([grid.first_page(sequence=s, layer=layer) for s in range(grid.num_sequences + 1)])

    def _mark(self) -> None:
        if self._stamps is not None:
            self._stamps.mark()
