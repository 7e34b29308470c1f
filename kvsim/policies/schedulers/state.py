"""The state of a serving engine between two steps: who runs, who waits, and what a scheduler may do to them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from kvsim.errors import PolicyError
from kvsim.policies.schedulers.connector import Connector
from kvsim.policies.schedulers.plan import StepPlan, StepWork
from kvsim.policies.schedulers.queues import Waiting
from kvsim.policies.schedulers.request import Request


class Blocks(Protocol):
    """The block tables of all requests; `kvsim.caches.blocks.BlockTables` is one. A request is known by its index."""

    block_tokens: int

    @property
    def num_blocks(self) -> int:
        """Blocks of the pool, one that is never handed out included."""

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, cached ones included."""

    def capacity(self, owner: int) -> int:
        """Return how many tokens a request's blocks have room for."""

    def lookup(self, owner: int, num_tokens: int) -> Sequence[int]:
        """Return the cached prefix of a request of `num_tokens` tokens, as blocks; changes nothing."""

    def need(self, num_tokens: int, hits: Sequence[int]) -> int:
        """Return how many free blocks `admit` would take; changes nothing."""

    def admit(self, owner: int, hits: Sequence[int], num_tokens: int, num_known: int) -> None:
        """Give a request without blocks its hits and new blocks; the caller has seen that `need` blocks are free."""

    def extend(self, owner: int, num_tokens: int, num_known: int) -> bool:
        """Give a request blocks for `num_tokens` tokens in all; return False and change nothing if they are short."""

    def cache(self, owner: int, num_tokens: int) -> None:
        """Let the blocks be hit that are full with `num_tokens` tokens."""

    def release(self, owner: int) -> None:
        """Take all blocks from a request."""

    def take_events(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return the keys of the blocks that were evicted, and of those that were cached, since the last call."""


class EngineState:
    """Requests and blocks of an engine.

    A scheduler reads the attributes and calls `extend`, `admit` and `preempt`. `add`, `begin` and `deliver` are the
    engine's own: arrival, start of a forward pass, and what comes of it.

    Parameters
    ----------
    blocks
        Block tables of all requests.
    waiting
        An empty queue, in the order that the scheduler serves.
    is_async
        Whether steps are scheduled while the one before is still running.
    """

    __slots__ = ("blocks", "connector", "holding", "is_async", "running", "waiting")

    def __init__(
        self, blocks: Blocks, waiting: Waiting, *, is_async: bool = False, connector: Connector | None = None
    ) -> None:
        self.blocks = blocks
        self.connector = connector
        """Tiers below the device; None where there are none."""
        self.waiting = waiting
        self.holding: list[Request] = []
        """Requests that hold blocks and do not run: they load, or have loaded, in the order in which they began to."""
        self.running: list[Request] = []
        """Requests that hold blocks, in the order of their admission."""
        self.is_async = is_async

    def extend(self, request: Request, tokens: int) -> bool:
        """Give a running request room for `tokens` more tokens; return False and change nothing if blocks are short."""
        return self.blocks.extend(request.index, request.computed_tokens + tokens, request.num_tokens)

    def admit(self, request: Request, hits: Sequence[int], tokens: int) -> int:
        """Let a request run that was taken out of `waiting`, with room for its hits and `tokens` more tokens.

        Returns
        -------
        int
            The tokens that it need not compute.

        Raises
        ------
        PolicyError
            If there are not that many free blocks.
        """
        hit_tokens = len(hits) * self.blocks.block_tokens
        need = self.blocks.need(hit_tokens + tokens, hits)
        if need > self.blocks.num_free:
            raise PolicyError(
                f"request {request.index}: admitted to {need} blocks where {self.blocks.num_free} are free"
            )
        self.blocks.admit(request.index, hits, hit_tokens + tokens, request.num_tokens)
        request.computed_tokens = hit_tokens
        request.is_running = True
        self.running.append(request)
        return hit_tokens

    def loadable_tokens(self, request: Request, hit_tokens: int) -> int | None:
        """Return how many tokens behind its hits the request at the head of `waiting` should load from a tier below.

        Returns
        -------
        int or None
            None if that is not known yet: pass the request over in this step.
        """
        return 0 if self.connector is None else self.connector.loadable_tokens(request, hit_tokens)

    def load(self, request: Request, hits: Sequence[int], tokens: int) -> None:
        """Let a request that was taken out of `waiting` load `tokens` tokens behind its hits, into its own blocks."""
        assert self.connector is not None, "nothing to load from"
        hit_tokens = len(hits) * self.blocks.block_tokens
        self.blocks.admit(request.index, hits, hit_tokens + tokens, hit_tokens)
        request.computed_tokens = hit_tokens + tokens
        request.is_loading = True
        self.holding.append(request)
        self.connector.begin_load(request, hit_tokens, tokens)

    def has_loaded(self, request: Request) -> bool:
        """Return whether a request of `holding` may run; its blocks can then be hit.

        Of a request that has all of its tokens the last one is computed again: somebody has to sample.
        """
        if request.is_loading:
            assert self.connector is not None, "nothing to load from"
            if not self.connector.is_loaded(request):
                return False
            self.blocks.cache(request.index, request.computed_tokens)
            request.computed_tokens = min(request.computed_tokens, request.num_tokens - 1)
            request.is_loading = False
        return True

    def resume(self, request: Request, tokens: int) -> int:
        """Let a request of `holding` run, with room for `tokens` more tokens; return the tokens that it has."""
        fits = self.extend(request, tokens)
        assert fits, "resumed without asking whether it fits"
        self.holding.remove(request)
        request.is_running = True
        self.running.append(request)
        return request.computed_tokens

    @property
    def reserved_blocks(self) -> int:
        """Blocks that requests under way still need for the tokens that they have now."""
        size = self.blocks.block_tokens
        return sum(
            max(-(-request.num_tokens // size) - self.blocks.capacity(request.index) // size, 0)
            for request in (*self.running, *self.holding)
        )

    def preempt(self, place: int) -> Request:
        """Stop the request at a place of `running`: it loses its blocks, keeps its outputs and waits again."""
        request = self.running.pop(place)
        self.blocks.release(request.index)
        request.is_running = False
        request.computed_tokens = request.placeholders = 0
        request.stale_tokens = request.in_flight_tokens
        request.num_preemptions += 1
        self.waiting.put_back(request)
        return request

    def add(self, request: Request) -> None:
        """Let a request arrive."""
        self.waiting.add(request)

    def begin(self, plan: StepPlan) -> tuple[set[Request], StepWork]:
        """Start a forward pass: advance what is computed; return the requests that will sample, and the work.

        Raises
        ------
        PolicyError
            If the plan computes tokens that there are not, or that have no block.
        """
        sampling: set[Request] = set()
        num_tokens = context_tokens = pairs = prefill_tokens = 0
        for request, tokens in plan.scheduled.items():
            before = request.computed_tokens
            after = before + tokens
            known = request.num_tokens + request.placeholders
            if not before < after <= known or after > self.blocks.capacity(request.index):
                raise PolicyError(f"request {request.index}: {tokens} tokens scheduled after {before} of {known}")
            num_tokens += tokens
            context_tokens += after
            pairs += tokens * before + tokens * (tokens + 1) // 2
            prefill_tokens += tokens if tokens > 1 else 0
            request.computed_tokens = after
            request.in_flight_tokens += tokens
            if after == known:
                sampling.add(request)
                request.placeholders += self.is_async
        work = StepWork(len(plan.scheduled), num_tokens, len(sampling), context_tokens, pairs, prefill_tokens)
        return sampling, work

    def deliver(self, plan: StepPlan, sampling: Collection[Request]) -> tuple[list[Request], list[Request]]:
        """End a forward pass: append what was sampled and free what is finished.

        Returns
        -------
        tuple
            The requests that got a token and those that are finished with it, both in the order of the batch.
        """
        sampled, finished = [], []
        for request, tokens in plan.scheduled.items():
            request.in_flight_tokens -= tokens
            is_stale = request.stale_tokens > 0
            if is_stale:
                request.stale_tokens -= tokens
            if request.is_finished or request not in sampling:
                continue
            self._append(request, is_stale=is_stale)
            sampled.append(request)
            if request.num_tokens >= request.stop_tokens:
                self._finish(request)
                finished.append(request)
        if finished:
            self.running = [request for request in self.running if request.is_running]
        return sampled, finished

    def _append(self, request: Request, *, is_stale: bool) -> None:
        request.num_tokens += 1
        if not self.is_async:
            return
        if not is_stale:
            request.placeholders -= 1
        if request.is_running:
            self.blocks.cache(request.index, request.computed_tokens - request.placeholders)

    def _finish(self, request: Request) -> None:
        request.is_finished = True
        if request.is_running:
            request.is_running = False
            self.blocks.release(request.index)
        else:
            self.waiting.remove(request)
