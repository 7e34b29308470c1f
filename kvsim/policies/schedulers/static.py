"""Static batching: the baseline that continuous batching is measured against."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.policies.schedulers.plan import StepBudget, StepPlan
from kvsim.policies.schedulers.queues import FcfsQueue, Waiting
from kvsim.policies.schedulers.request import Request
from kvsim.policies.schedulers.state import EngineState


@dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    """A new batch starts when all requests of the last one are finished.

    Requests join in order of arrival while the pool has room for their prompts and all outputs that they may ask for,
    so nobody is ever preempted. Prompts are split by the token budget alone. A request is delivered when it finishes,
    and its place stays empty until the batch is done: "request-level scheduling" of Yu and others, "Orca", OSDI 2022,
    without the padding, and without the wait of finished requests for the rest of their batch.
    """

    def queue(self) -> Waiting:
        """Return an empty queue, first come first served."""
        return FcfsQueue()

    def schedule(self, state: EngineState, budget: StepBudget) -> StepPlan:
        """Return the plan of the next step: one more piece of everybody's work, after a new batch if none runs."""
        plan = StepPlan()
        if not state.running:
            self._fill(state, budget, plan)
        tokens_left = budget.tokens
        for request in state.running:
            tokens = min(request.tokens_to_compute(budget.model_tokens), tokens_left)
            if tokens > 0:
                has_room = state.extend(request, tokens)
                assert has_room, "the reserve of a batch holds all its tokens"
                plan.scheduled[request] = tokens
                tokens_left -= tokens
        return plan

    def _fill(self, state: EngineState, budget: StepBudget, plan: StepPlan) -> None:
        """Admit a batch, with hits and no more blocks than those yet."""
        blocks_left = state.blocks.num_free
        while len(state.waiting) and len(state.running) < budget.sequences:
            request = state.waiting.head()
            blocks_left -= self._most_blocks(request, state.blocks.block_tokens, budget)
            if blocks_left < 0:
                return
            hits = state.blocks.lookup(request.index, request.num_tokens)
            plan.admitted.append((state.waiting.pop(), state.admit(request, hits, tokens=0)))

    def _most_blocks(self, request: Request, block_tokens: int, budget: StepBudget) -> int:
        """Return the blocks that a request may come to hold: its last token is never computed."""
        num_tokens = min(request.prompt_tokens + request.max_tokens, budget.model_tokens) - 1
        return -(-num_tokens // block_tokens)
