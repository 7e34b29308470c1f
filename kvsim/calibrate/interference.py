"""Times what copies do to compute: while they run, and after a stall that waited for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from kvsim.calibrate.bench import MAX_ROUNDS, WARMUP_STEPS, Bench, step_parts
from kvsim.calibrate.fit import cost_per_event_s, slowdown_frac
from kvsim.calibrate.plan import Plan
from kvsim.calibrate.random_inputs import random_ids
from kvsim.calibrate.timers import Neighbours
from kvsim.engine.link import EmulatedLink, Transfer
from kvsim.engine.page_pool import PagePool
from kvsim.engine.stamps import LAYER_PARTS, Stamps
from kvsim.types import FloatArray, PageGrid

_QUIET_FRAC = 0.05
"""Share of a processor that other programs may use in a run that needs two for itself."""

_STALL_S = 2e-5
"""A shorter wait is the look at an event that has fired."""

_COMPUTE = ("embed", "attention_input", "select", "sync", "choose", "attention", "attention_output", "head")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """What copies do to compute."""

    slowdown_frac: float
    """How much longer compute takes while transfers to the device run all through it."""
    resume_s: float
    """What compute loses after each stall."""


def measure_interference(bench: Bench) -> Interference:
    """Return what copies do to compute.

    Steps with and without copies take turns, so that a drift of the machine counts for neither. It needs two processors
    to itself: of up to three tries, the one that other programs disturbed least counts.
    """
    return Interference(
        slowdown_frac=_least_disturbed(lambda: _slowdown_try(bench)),
        resume_s=_least_disturbed(lambda: _resume_try(bench)),
    )


def num_interference_steps(plan: Plan) -> int:
    """Return the steps that `measure_interference` takes at least, for a progress bar."""
    return 2 * (WARMUP_STEPS + plan.num_slowed_steps)


def _least_disturbed(measure: Callable[[], float]) -> float:
    tries: list[tuple[float, float]] = []
    for _ in range(MAX_ROUNDS):
        neighbours = Neighbours()
        found = measure()
        tries.append((neighbours.busy_frac(), found))
        if tries[-1][0] < _QUIET_FRAC:
            break
    return min(tries)[1]


def _slowdown_try(bench: Bench) -> float:
    num_steps = WARMUP_STEPS + bench.plan.num_slowed_steps
    page_tokens = bench.plan.middle_page_tokens
    with bench.decoder(
        "resident",
        page_tokens=page_tokens,
        num_sequences=1,
        context_tokens=bench.plan.decided_contexts_tokens[1],
        max_steps=num_steps,
    ) as (decoder, schedule, stamps, pool):
        schedule.attend(bench.plan.decided_pages[1])
        beside = Beside(bench.tokens, page_tokens, bench.bandwidth_bytes_per_s, pool.page_bytes)
        step_s = 0.1
        for step in range(num_steps):
            if step % 2:
                beside.keep_busy(2 * step_s)
            step_s = bench.step(decoder).step_s
            bench.advance(1)
            beside.rest()
        beside.link.close()
    total_s = _compute_s(stamps, bench.num_layers)[WARMUP_STEPS:]
    return slowdown_frac(total_s[1::2].tolist(), total_s[::2].tolist())


def _resume_try(bench: Bench) -> float:
    """Return what a stall adds to compute: every token is fed twice, and the second time all pages are there."""
    context_tokens = bench.plan.decided_contexts_tokens[1]
    num_steps = WARMUP_STEPS + bench.plan.num_slowed_steps
    half = bench.num_layers * (context_tokens // bench.plan.middle_page_tokens) // 2
    with bench.decoder(
        "lru",
        page_tokens=bench.plan.middle_page_tokens,
        num_sequences=1,
        context_tokens=context_tokens,
        max_steps=num_steps,
        capacity_pages=half,
    ) as (decoder, schedule, stamps, _):
        schedule.attend(bench.plan.decided_pages[0])
        for step in range(num_steps):
            if step % 2 == 0:
                fed = random_ids(bench.rng, 1, bench.shape.vocab_size)
            decoder.step(fed)
            bench.advance(1)
    num_stalls = (stamps.parts_s(bench.num_layers)["stall"] > _STALL_S).sum(axis=1)[WARMUP_STEPS:]
    total_s = _compute_s(stamps, bench.num_layers)[WARMUP_STEPS:]
    added_s, added_stalls = total_s[::2] - total_s[1::2], num_stalls[::2] - num_stalls[1::2]
    return cost_per_event_s(added_s.tolist(), np.maximum(added_stalls, 0).tolist(), 0.0)


def _compute_s(stamps: Stamps, num_layers: int) -> FloatArray:
    """Return the compute of each step, ``[num_steps]``."""
    parts = step_parts(stamps, num_layers)
    by_part = [parts[name] * (num_layers if name in LAYER_PARTS else 1) for name in _COMPUTE]
    total_s: FloatArray = np.sum(by_part, axis=0)
    return total_s


class Beside:
    """A link of its own that copies between pools of its own, beside the run that is timed."""

    def __init__(self, tokens: torch.Tensor, page_tokens: int, bandwidth_bytes_per_s: float, page_bytes: int) -> None:
        pages = min(64, len(tokens) // page_tokens)
        grid = PageGrid(num_sequences=1, num_layers=1, pages_per_layer=pages)
        host = tokens[: pages * page_tokens].view(1, 1, pages * page_tokens, *tokens.shape[1:])
        self._pool = PagePool(grid, host, page_tokens=page_tokens, num_slots=pages, device="cpu")
        self._pool.is_on_host[:] = True
        self._slots = self._pool.take(np.arange(pages))
        self._chunk_s = 4 * page_bytes / bandwidth_bytes_per_s
        self.link = EmulatedLink(self._pool, bandwidth_bytes_per_s)
        assert page_bytes == self._pool.page_bytes

    def keep_busy(self, time_s: float) -> None:
        """Queue prefetches of four pages for at least `time_s`, and let the first one start."""
        for chunk in range(int(time_s / self._chunk_s) + 1):
            pages = (np.arange(4) + 4 * chunk) % len(self._slots)
            self.link.submit(Transfer(kind="prefetch", pages=pages, slots=self._slots[pages], step=0))

    def rest(self) -> None:
        """Wait until all is copied."""
        self.link.drain()
