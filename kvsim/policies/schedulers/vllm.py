"""vLLM's scheduler, version 0.32.0: continuous batching, chunked prefill, preemption by recomputation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kvsim.errors import ScenarioError
from kvsim.policies.schedulers.plan import StepBudget, StepPlan
from kvsim.policies.schedulers.queues import FcfsQueue, PriorityQueue, Waiting
from kvsim.policies.schedulers.request import Request
from kvsim.policies.schedulers.state import EngineState

VERSION = "0.32.0"
"""The version of vLLM whose schedules this one equals, step by step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vllm:
    """The scheduler of vLLM 0.32.0 for one engine and one group of full attention, without speculative decoding.

    There is no phase of prefill and none of decode: whoever runs gets the tokens that it lacks, in the order of
    admission; who waits gets what is left of the budget. A running request that finds no block preempts another, which
    loses its blocks and computes again later. After ``vllm/v1/core/sched/scheduler.py``; left out are connectors, LoRA,
    encoders, structured output and pipeline or data parallelism.
    """

    order: Literal["fcfs", "priority"] = "fcfs"
    """Who is served first, and in reverse who is preempted (``scheduling_policy``)."""
    chunked_prefill: bool = True
    """Whether a prompt may be split over steps (``enable_chunked_prefill``)."""
    long_prefill_tokens: int = 0
    """Most tokens of one request in a step, 0 for no limit (``long_prefill_token_threshold``); a lone one has none."""
    long_prefill_adaptive: bool = False
    """Whether that limit is at least the budget's fair share (``long_prefill_token_threshold_adaptive``)."""
    watermark_frac: float = 0.0
    """Share of the pool that admissions leave free while anything runs (``watermark``)."""
    reserve_full_prompt: bool = True
    """Whether admission asks for room for all known tokens or the first chunk only (``scheduler_reserve_full_isl``)."""

    def __post_init__(self) -> None:
        if self.order not in ("fcfs", "priority"):
            raise ScenarioError(f"scheduler vllm: order is 'fcfs' or 'priority', not {self.order!r}")
        if self.long_prefill_tokens < 0:
            raise ScenarioError(f"scheduler vllm: long_prefill_tokens is 0 or more, not {self.long_prefill_tokens}")
        if not 0 <= self.watermark_frac < 1:
            raise ScenarioError(f"scheduler vllm: watermark_frac is from 0 to below 1, not {self.watermark_frac}")

    def queue(self) -> Waiting:
        """Return an empty queue: FCFS or by priority."""
        return FcfsQueue() if self.order == "fcfs" else PriorityQueue()

    def schedule(self, state: EngineState, budget: StepBudget) -> StepPlan:
        """Return the plan of the next step: running requests first; new ones only if nobody was preempted."""
        plan = StepPlan()
        limit = self._prefill_limit(state, budget)
        tokens_left = self._schedule_running(state, budget, plan, limit)
        if not plan.preempted:
            self._schedule_waiting(state, budget, plan, limit, tokens_left)
        return plan

    def _prefill_limit(self, state: EngineState, budget: StepBudget) -> int:
        """Return the most tokens that one request gets in this step."""
        num_requests = len(state.running) + len(state.waiting) + len(state.holding)
        if self.long_prefill_tokens == 0 or num_requests <= 1:
            return budget.tokens
        if self.long_prefill_adaptive:
            return max(self.long_prefill_tokens, budget.tokens // num_requests)
        return self.long_prefill_tokens

    def _schedule_running(self, state: EngineState, budget: StepBudget, plan: StepPlan, limit: int) -> int:
        """Give running requests their tokens and return what is left of the budget."""
        tokens_left, place = budget.tokens, 0
        while place < len(state.running) and tokens_left > 0:
            request = state.running[place]
            tokens = min(request.tokens_to_compute(budget.model_tokens), limit, tokens_left)
            if tokens <= 0:
                place += 1
                continue
            while not state.extend(request, tokens):
                victim_place = self._victim_place(state.running)
                victim = state.preempt(victim_place)
                plan.preempted.append(victim)
                tokens_left += plan.drop(victim)
                place -= victim_place < place
                if victim is request:
                    return tokens_left
            plan.scheduled[request] = tokens
            tokens_left -= tokens
            place += 1
        return tokens_left

    def _victim_place(self, running: Sequence[Request]) -> int:
        """Return who is preempted: the last admitted, or the first of those with the highest (priority, arrival)."""
        if self.order == "fcfs":
            return len(running) - 1
        return max(range(len(running)), key=lambda place: (running[place].priority, running[place].arrival))

    def _schedule_waiting(
        self, state: EngineState, budget: StepBudget, plan: StepPlan, limit: int, tokens_left: int
    ) -> None:
        """Admit requests in their order until one does not fit: nobody overtakes it; those that hold blocks come first.

        A request that loads, or whose chunks are on their way in a tier below, is passed over and keeps its place.

        vLLM also skips a preempted request whose outputs are still to come. With two steps in flight there is none:
        the step that preempts admits nobody, and before the next one those outputs are delivered.
        """
        left = self._schedule_holding(state, budget, plan, limit, tokens_left)
        if left is None:
            return
        tokens_left, passed_over = left, []
        while tokens_left > 0 and len(state.waiting) and len(state.running) < budget.sequences:
            request = state.waiting.head()
            hits = state.blocks.lookup(request.index, request.num_tokens)
            hit_tokens = len(hits) * state.blocks.block_tokens
            loadable_tokens = state.loadable_tokens(request, hit_tokens)
            if loadable_tokens is None:
                passed_over.append(state.waiting.pop())
                continue
            if loadable_tokens:
                if not self._fits(state, request, hits, hit_tokens + loadable_tokens, is_load=True):
                    break
                state.load(state.waiting.pop(), hits, loadable_tokens)
                continue
            tokens = min(request.num_tokens - hit_tokens, limit)
            if tokens > tokens_left and not self.chunked_prefill:
                break
            tokens = min(tokens, tokens_left)
            if not self._fits(state, request, hits, hit_tokens + tokens):
                break
            state.waiting.pop()
            plan.admitted.append((request, state.admit(request, hits, tokens)))
            plan.scheduled[request] = tokens
            tokens_left -= tokens
        for request in reversed(passed_over):
            state.waiting.put_back(request)

    def _schedule_holding(
        self, state: EngineState, budget: StepBudget, plan: StepPlan, limit: int, tokens_left: int
    ) -> int | None:
        """Let requests run that have loaded; return what is left of the budget, None if one of them does not fit."""
        size = state.blocks.block_tokens
        for request in tuple(state.holding):
            if tokens_left <= 0 or len(state.running) >= budget.sequences:
                break
            if not state.has_loaded(request):
                continue
            tokens = min(request.num_tokens - request.computed_tokens, limit)
            if tokens > tokens_left and not self.chunked_prefill:
                return None
            tokens = min(tokens, tokens_left)
            known = request.num_tokens if self.reserve_full_prompt else request.computed_tokens + tokens
            missing = -(-known // size) - state.blocks.capacity(request.index) // size
            if max(missing, 0) + self._watermark_blocks(state) > state.blocks.num_free:
                return None
            plan.admitted.append((request, state.resume(request, tokens)))
            plan.scheduled[request] = tokens
            tokens_left -= tokens
        return tokens_left

    def _fits(
        self, state: EngineState, request: Request, hits: Sequence[int], num_tokens: int, *, is_load: bool = False
    ) -> bool:
        """Return whether a request may be admitted with room for `num_tokens` tokens.

        The reserve asks for all known tokens; outputs to come are never reserved. The watermark binds whoever comes
        while another request runs, be it admitted in this very step. A request that loads must leave what those need
        that are under way, since it cannot be preempted.
        """
        blocks = state.blocks
        free = blocks.num_free - self._watermark_blocks(state)
        if self.reserve_full_prompt and blocks.need(request.num_tokens, hits) > free:
            return False
        return blocks.need(num_tokens, hits) <= free - (state.reserved_blocks if is_load else 0)

    def _watermark_blocks(self, state: EngineState) -> int:
        """Return the blocks that an admission leaves free: none where nothing runs."""
        return int(self.watermark_frac * state.blocks.num_blocks) if state.running else 0
