"""Each rule of vLLM's scheduler broken on purpose: a recorded schedule must notice, or its equality proves nothing."""

from __future__ import annotations

import dataclasses

import pytest

from kvsim.caches.blocks import BlockPool, BlockTables, FreeQueue, PrefixIndex
from kvsim.errors import PolicyError
from kvsim.policies.schedulers.plan import StepPlan
from kvsim.policies.schedulers.queues import FcfsQueue, PriorityQueue
from kvsim.policies.schedulers.request import Request
from kvsim.policies.schedulers.state import EngineState
from kvsim.policies.schedulers.vllm import Vllm
from tests.experiments.serving.schedules.recorded import NAMES, difference_with, load


class NullBlockUsable(BlockPool):
    def __init__(self, num_blocks):
        super().__init__(num_blocks)
        self.free = FreeQueue(range(num_blocks))


class PartialBlockLast(BlockPool):
    def release(self, blocks):
        freed = list(blocks)
        for block in freed:
            self.holders[block] -= 1
        self.free.extend(block for block in freed if self.holders[block] == 0)


class HitMovesToTheEnd(BlockPool):
    """A lookup refreshes what it finds, as in a cache by recency of use."""

    def cached(self, key):
        block = super().cached(key)
        if block is not None and block in self.free:
            self.free.remove(block)
            self.free.extend([block])
        return block


class EvictedWhenReleased(BlockPool):
    def release(self, blocks):
        freed = list(blocks)
        super().release(freed)
        for block in freed:
            if self.holders[block] == 0 and self.keys[block] is not None:
                self.index.remove(self.keys[block], block)
                self.keys[block] = None


class NewestDuplicate(PrefixIndex):
    __slots__ = ()

    def first(self, key):
        blocks = self._blocks.get(key)
        return next(reversed(blocks)) if blocks else None


class NewestDuplicateIsHit(BlockPool):
    def __init__(self, num_blocks):
        super().__init__(num_blocks)
        self.index = NewestDuplicate()


class HeadFirst(BlockTables):
    def release(self, owner):
        del self._cached[owner]
        self.pool.release(self._held.pop(owner))


class WholePromptHit(BlockTables):
    def lookup(self, owner, num_tokens):
        return super().lookup(owner, num_tokens + 1)


class CachedWhenComputed(BlockTables):
    """Blocks can be hit from the end of the step on, not from when they are scheduled."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.waiting = {}

    def cache(self, owner, num_tokens):
        self.waiting[owner] = num_tokens

    def release(self, owner):
        if owner in self.waiting:
            super().cache(owner, self.waiting.pop(owner))
        super().release(owner)

    def take_events(self):
        for owner, num_tokens in self.waiting.items():
            super().cache(owner, num_tokens)
        self.waiting.clear()
        return super().take_events()


class SharedBlocksOnce(BlockTables):
    """A block whose tokens another block holds already is not cached a second time."""

    def cache(self, owner, num_tokens):
        if self._chains is None:
            return
        held, keys = self._held[owner], self._chains[owner]
        for place in range(self._cached[owner], num_tokens // self.block_tokens):
            if self.pool.cached(keys[place]) is None:
                self.pool.cache(held[place], keys[place])
            self._cached[owner] = place + 1


class HitsTakeNothing(Vllm):
    """Hits that nobody holds are not counted though they leave the free queue."""

    def _fits(self, state, request, hits, num_tokens):
        reserved_tokens = request.num_tokens if self.reserve_full_prompt else num_tokens
        missing = -(-reserved_tokens // state.blocks.block_tokens) - len(hits)
        return missing <= state.blocks.num_free


class OutputReserved(Vllm):
    def _fits(self, state, request, hits, num_tokens):
        most = request.prompt_tokens + request.max_tokens
        return state.blocks.need(most, hits) <= state.blocks.num_free and super()._fits(
            state, request, hits, num_tokens
        )


class NothingReserved(Vllm):
    def _fits(self, state, request, hits, num_tokens):
        return state.blocks.need(num_tokens, hits) <= state.blocks.num_free


class EverythingReserved(Vllm):
    def _fits(self, state, request, hits, num_tokens):
        return super()._fits(state, request, hits, request.num_tokens)


class NoWatermark(Vllm):
    def _fits(self, state, request, hits, num_tokens):
        return Vllm._fits(dataclasses.replace(self, watermark_frac=0.0), state, request, hits, num_tokens)


class WatermarkOfThoseRunningBefore(Vllm):
    """Requests admitted in the same step do not count as running."""

    def _schedule_waiting(self, state, budget, plan, limit, tokens_left):
        scheduler = self if len(state.running) else dataclasses.replace(self, watermark_frac=0.0)
        Vllm._schedule_waiting(scheduler, state, budget, plan, limit, tokens_left)


class AdmitsAfterPreemption(Vllm):
    def schedule(self, state, budget):
        plan = StepPlan()
        limit = self._prefill_limit(state, budget)
        tokens_left = self._schedule_running(state, budget, plan, limit)
        self._schedule_waiting(state, budget, plan, limit, tokens_left)
        return plan


class AdmitsPastABlockedHead(Vllm):
    def _schedule_waiting(self, state, budget, plan, limit, tokens_left):
        super()._schedule_waiting(state, budget, plan, limit, tokens_left)
        tokens_left = budget.tokens - sum(plan.scheduled.values())
        if len(state.waiting) and tokens_left > 0:
            head = state.waiting.pop()
            super()._schedule_waiting(state, budget, plan, limit, tokens_left)
            state.waiting.put_back(head)


class WaitingFirst(Vllm):
    """Prefills before decodes, as vLLM's first engine had it."""

    def schedule(self, state, budget):
        plan = StepPlan()
        limit = self._prefill_limit(state, budget)
        running = list(state.running)
        self._schedule_waiting(state, budget, plan, limit, budget.tokens)
        if plan.admitted:
            return plan
        state.running[:] = running
        self._schedule_running(state, budget, plan, limit)
        return plan


class OneMoreRuns(Vllm):
    def schedule(self, state, budget):
        return super().schedule(state, type(budget)(tokens=budget.tokens, sequences=10**9, model_tokens=10**9))


class LimitForALoneRequestToo(Vllm):
    def _prefill_limit(self, state, budget):
        return self.long_prefill_tokens or budget.tokens


class NoPrefillLimit(Vllm):
    def _prefill_limit(self, state, budget):
        return budget.tokens


class NeverAdaptive(Vllm):
    def _prefill_limit(self, state, budget):
        lone = len(state.running) + len(state.waiting) <= 1
        return budget.tokens if lone or not self.long_prefill_tokens else self.long_prefill_tokens


class FirstAdmittedIsPreempted(Vllm):
    def _victim_place(self, running):
        return 0 if self.order == "fcfs" else super()._victim_place(running)


class LastOfTiesIsPreempted(Vllm):
    def _victim_place(self, running):
        places = reversed(range(len(running)))
        if self.order == "fcfs":
            return len(running) - 1
        return max(places, key=lambda place: (running[place].priority, running[place].arrival))


class ArrivalIsNoVictimRule(Vllm):
    def _victim_place(self, running):
        places = range(len(running))
        return len(running) - 1 if self.order == "fcfs" else max(places, key=lambda place: running[place].priority)


class NoRefundPlan(StepPlan):
    def drop(self, request):
        super().drop(request)
        return 0


class NoRefund(Vllm):
    def schedule(self, state, budget):
        plan = NoRefundPlan()
        limit = self._prefill_limit(state, budget)
        tokens_left = self._schedule_running(state, budget, plan, limit)
        if not plan.preempted:
            self._schedule_waiting(state, budget, plan, limit, tokens_left)
        return plan


class PreemptedToTheBackQueue(FcfsQueue):
    __slots__ = ()
    put_back = FcfsQueue.add


class PreemptedToTheBack(Vllm):
    def queue(self):
        return PreemptedToTheBackQueue() if self.order == "fcfs" else PriorityQueue()


class NoPriorities(Vllm):
    def queue(self):
        return FcfsQueue()


SECTION_13 = {
    "the null block is usable": {"pool": NullBlockUsable},
    "outputs are reserved at admission": {"scheduler": OutputReserved},
    "a freed partial block goes to the end": {"pool": PartialBlockLast},
    "the head is freed before the tail": {"tables": HeadFirst},
    "lookup to n instead of n - 1": {"tables": WholePromptHit},
    "blocks are cached at completion": {"tables": CachedWhenComputed},
    "admission goes on after a preemption": {"scheduler": AdmitsAfterPreemption},
    "admission goes on past a blocked head": {"scheduler": AdmitsPastABlockedHead},
}
MORE = {
    "a lookup moves what it finds": {"pool": HitMovesToTheEnd},
    "release evicts": {"pool": EvictedWhenReleased},
    "the newest duplicate is hit": {"pool": NewestDuplicateIsHit},
    "duplicates are not cached": {"tables": SharedBlocksOnce},
    "hits take nothing from the free blocks": {"scheduler": HitsTakeNothing},
    "the full prompt is never reserved": {"scheduler": NothingReserved},
    "the full prompt is always reserved": {"scheduler": EverythingReserved},
    "no watermark": {"scheduler": NoWatermark},
    "the watermark binds from the next step on": {"scheduler": WatermarkOfThoseRunningBefore},
    "waiting requests first": {"scheduler": WaitingFirst},
    "no limit on running requests": {"scheduler": OneMoreRuns},
    "the prefill limit binds a lone request": {"scheduler": LimitForALoneRequestToo},
    "no prefill limit": {"scheduler": NoPrefillLimit},
    "the prefill limit is not adaptive": {"scheduler": NeverAdaptive},
    "the first admitted is preempted": {"scheduler": FirstAdmittedIsPreempted},
    "of equals the last is preempted": {"scheduler": LastOfTiesIsPreempted},
    "arrival does not count for the victim": {"scheduler": ArrivalIsNoVictimRule},
    "a preempted request's tokens are not given back": {"scheduler": NoRefund},
    "a preempted request goes to the back": {"scheduler": PreemptedToTheBack},
    "priorities are ignored": {"scheduler": NoPriorities},
}


def noticed_by(parts) -> str | None:
    """Return the first recorded schedule that differs, or that cannot even be replayed."""
    for name in NAMES:
        try:
            if difference_with(load(name), **parts) is not None:
                return name
        except PolicyError:
            return name
    return None


@pytest.mark.parametrize("mutation", [*SECTION_13, *MORE])
def test_a_recorded_schedule_notices_that(mutation):
    assert noticed_by((SECTION_13 | MORE)[mutation]) is not None


ASYNCHRONOUS = [name for name in NAMES if name.startswith("async-")]


def async_schedules_differ() -> bool:
    return any(difference_with(load(name)) is not None for name in ASYNCHRONOUS)


def test_asynchronous_schedules_notice_a_step_beyond_the_last_output(monkeypatch):
    def tokens_to_compute(request, model_tokens):
        waiting = request.num_tokens + request.placeholders - request.computed_tokens
        return min(waiting, model_tokens - 1 - request.computed_tokens)

    assert not async_schedules_differ()
    monkeypatch.setattr(Request, "tokens_to_compute", tokens_to_compute)
    assert async_schedules_differ()


def test_asynchronous_schedules_notice_blocks_cached_before_their_tokens_are_known(monkeypatch):
    extend = BlockTables.extend
    monkeypatch.setattr(
        BlockTables, "extend", lambda tables, owner, tokens, known: extend(tables, owner, tokens, tokens)
    )
    assert async_schedules_differ()


def test_asynchronous_schedules_notice_a_last_block_that_is_never_cached(monkeypatch):
    monkeypatch.setattr(BlockTables, "cache", lambda tables, owner, tokens: None)
    assert async_schedules_differ()


def test_asynchronous_schedules_notice_outputs_in_flight_that_count_twice(monkeypatch):
    """A preempted request's outputs in flight are delivered, but its placeholders are gone already."""
    append = EngineState._append

    def append_as_if_never_preempted(state, request, *, is_stale):
        append(state, request, is_stale=False)

    monkeypatch.setattr(EngineState, "_append", append_as_if_never_preempted)
    assert async_schedules_differ()


@pytest.mark.parametrize("name", ["edges", "priority-ties", "watermark"])
def test_the_parts_themselves_are_not_noticed(name):
    assert difference_with(load(name)) is None
