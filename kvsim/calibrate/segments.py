"""Times the engine's own decode steps on random contexts, part by part: segments of compute, decisions, submissions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from kvsim.calibrate.fit import Sample, cost_per_event_s, slowdown_frac
from kvsim.calibrate.plan import Plan
from kvsim.calibrate.random_inputs import Schedule, random_ids, random_snapshot
from kvsim.calibrate.timers import Neighbours
from kvsim.engine.decode import Decoder, StepOutcome, decoding, make_pool
from kvsim.engine.link import EmulatedLink, Link, Transfer
from kvsim.engine.page_pool import PagePool
from kvsim.engine.paged_run import DecodeInput
from kvsim.engine.stamps import LAYER_PARTS, Stamps
from kvsim.models import ModelShape
from kvsim.policies import POLICIES, Setting, make_policy
from kvsim.types import BoolArray, FloatArray, PageGrid, pages_of

Advance = Callable[[int], None]
"""Told how many steps were done since the last call."""

_SHORT_TOKENS = 4
"""Contexts of a batch end so many tokens short of whole pages: no page opens or fills while they are measured."""

_WARMUP_STEPS = 2
_MAX_ROUNDS = 3
"""A disturbed step is repeated in the next round; what the last one leaves is taken as it is."""

_QUIET_FRAC = 0.05
"""Share of a processor that other programs may use in a run that needs two for itself."""

_COMPUTE = ("embed", "attention_input", "select", "sync", "choose", "attention", "attention_output", "head")


@dataclass(slots=True)
class Bench:
    """A model, random memory for its contexts, and what the runs have in common."""

    model: Any
    shape: ModelShape
    tokens: torch.Tensor
    bandwidth_bytes_per_s: float
    plan: Plan
    advance: Advance
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @property
    def num_layers(self) -> int:
        """Layers of the model at hand: all of the shape's, or a few that stand for all."""
        return int(self.model.config.num_hidden_layers)

    @contextmanager
    def decoder(
        self,
        policy: str,
        *,
        page_tokens: int,
        num_sequences: int,
        context_tokens: int,
        max_steps: int,
        capacity_pages: int | None = None,
        quota_pages: int = 4,
        is_filling: bool = False,
    ) -> Iterator[tuple[Decoder, Schedule, Stamps, PagePool]]:
        """Yield a stamped decoder whose context never grows: each step writes its token where the last one did.

        Parameters
        ----------
        context_tokens
            Of the whole batch.
        is_filling
            The token written is a page's last one, so that every step writes each open page back.
        """
        each = context_tokens // num_sequences - (0 if is_filling else _SHORT_TOKENS // num_sequences)
        pages = pages_of(each, page_tokens) + 1  # room to grow, as a run has
        grid = PageGrid(num_sequences=num_sequences, num_layers=self.num_layers, pages_per_layer=pages)
        setting = Setting(
            grid=grid,
            capacity_pages=capacity_pages or grid.num_pages,
            partition="shared",
            prefetch_quota_pages=quota_pages,
            seed=0,
        )
        schedule = Schedule()
        given = DecodeInput(
            selector=schedule,
            channel="estimate:quest",
            policy=make_policy(policy, setting, {}),
            setting=setting,
            page_tokens=page_tokens,
            pinned_first_pages=0,
            pinned_last_pages=0,
            num_steps=max_steps,
            warmup_steps=0,
            chunk_pages=4,
            window_transfers=2,
        )
        snapshot = random_snapshot(
            self.tokens, num_layers=self.num_layers, num_sequences=num_sequences, prompt_tokens=each - 1
        )
        pool = make_pool(snapshot, given, device=self.model.device.type)
        stamps = Stamps()
        link: Link = EmulatedLink(pool, self.bandwidth_bytes_per_s)
        with decoding(self.model, snapshot, given, pool, link, stamps) as decoder:
            yield decoder, schedule, stamps, pool

    def step(self, decoder: Decoder) -> StepOutcome:
        """Feed random tokens for one step; the context stays as long as it was."""
        batch = decoder.run.given.setting.grid.num_sequences
        return decoder.step(random_ids(self.rng, batch, self.shape.vocab_size))

    def quiet_steps(
        self, decoder: Decoder, schedule: Schedule, stamps: Stamps, wanted: list[int], *, idle_frac: float
    ) -> tuple[list[int], BoolArray]:
        """Run a step for each of `wanted` pages a sequence, in random order, and again those that were disturbed.

        A step is disturbed if for more than `idle_frac` of it the computing thread neither computed nor waited for
        pages: another program had the processor. Returns the pages of each step run, and which steps count: the
        quiet ones, or all of an amount that had hardly any. The first two steps never count.
        """
        order = wanted[:1] * _WARMUP_STEPS + self.rng.permutation(wanted).tolist()
        ran: list[int] = []
        outcomes: list[StepOutcome] = []
        quiet = np.zeros(0, dtype=np.bool_)
        for _ in range(_MAX_ROUNDS):
            for pages in order:
                schedule.attend(pages)
                outcomes.append(self.step(decoder))
                self.advance(len(ran) < len(wanted) + _WARMUP_STEPS)
                ran.append(pages)
            step_s = np.array([outcome.step_s for outcome in outcomes])
            idle_s = step_s - np.array([outcome.cpu_s for outcome in outcomes])
            idle_s -= stamps.parts_s(self.num_layers)["stall"].sum(axis=1)
            quiet = idle_s <= idle_frac * step_s
            quiet[:_WARMUP_STEPS] = False
            had = np.array(ran)
            order = [
                pages
                for pages in sorted(set(wanted))
                for _ in range(wanted.count(pages) - np.count_nonzero(quiet[had == pages]))
            ]
            if not order:
                break
        for pages in set(wanted):
            mine = np.array(ran) == pages
            if np.count_nonzero(quiet & mine) < 2:
                quiet[mine] = True
                quiet[:_WARMUP_STEPS] = False
        return ran, quiet


def segment_samples(bench: Bench) -> dict[str, list[Sample]]:
    """Return samples of every segment, a step each: the mean over the step's layers.

    Compute is timed under `resident`: nothing moves. ``select`` holds the read-back of scores, which waits for nothing
    on a synchronous machine; ``attention`` holds the look-up of late pages that finds none.
    """
    samples: dict[str, list[Sample]] = defaultdict(list)
    plan = bench.plan
    for page_tokens in plan.page_tokens:
        for batch in plan.batches:
            for context_tokens, amounts in plan.attended_tokens.items():
                fitting = [amount for amount in amounts if amount // batch >= page_tokens]
                if fitting:
                    _add_segments(bench, samples, page_tokens, batch, context_tokens, fitting)
    return samples


def num_segment_steps(plan: Plan) -> int:
    """Return the steps that `segment_samples` takes, for a progress bar."""
    return sum(
        _WARMUP_STEPS + plan.num_steps * len([amount for amount in amounts if amount // batch >= page_tokens])
        for page_tokens in plan.page_tokens
        for batch in plan.batches
        for amounts in plan.attended_tokens.values()
    )


def _add_segments(
    bench: Bench,
    samples: dict[str, list[Sample]],
    page_tokens: int,
    batch: int,
    context_tokens: int,
    amounts: list[int],
) -> None:
    wanted = [amount // (batch * page_tokens) for amount in amounts] * bench.plan.num_steps
    with bench.decoder(
        "resident",
        page_tokens=page_tokens,
        num_sequences=batch,
        context_tokens=context_tokens,
        max_steps=_MAX_ROUNDS * (len(wanted) + _WARMUP_STEPS),
    ) as (decoder, schedule, stamps, _):
        ran, quiet = bench.quiet_steps(decoder, schedule, stamps, wanted, idle_frac=0.02)
    parts = _step_parts(stamps, bench.num_layers)
    pages = context_tokens // page_tokens
    for step in np.flatnonzero(quiet).tolist():
        attended = ran[step] * batch * page_tokens - _SHORT_TOKENS
        samples["embed"].append((1.0, batch, parts["embed"][step]))
        samples["head"].append((1.0, batch, parts["head"][step]))
        samples["attention_input"].append((1.0, batch, parts["attention_input"][step]))
        samples["attention_output"].append((1.0, batch, parts["attention_output"][step]))
        select_s = parts["select"][step] + parts["sync"][step] + parts["choose"][step]
        samples["select"].append((pages, batch, select_s))
        attention_s = parts["decide"][step] + parts["submit"][step] + parts["stall"][step] + parts["attention"][step]
        samples["attention"].append((attended, batch, attention_s))


def _step_parts(stamps: Stamps, num_layers: int) -> dict[str, FloatArray]:
    """Return each part by step, ``[num_steps]``: the mean over layers where it is a layer's."""
    parts = stamps.parts_s(num_layers)
    return {name: part.mean(axis=1) if name in LAYER_PARTS else part for name, part in parts.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCosts:
    """What the host spends on paging."""

    decisions: dict[str, list[Sample]]
    """By policy: over pages selected."""
    submit_s: float
    """To hand over one transfer to the device, slots freed and taken included."""
    write_back_s: float
    """To hand over one page to the host."""


def host_samples(bench: Bench) -> HostCosts:
    """Return the costs of decisions and of handing over transfers, from runs of every built-in policy.

    For a policy that reads everything, its decision holds the listing of all pages, which stands where others select.
    """
    decisions: dict[str, list[Sample]] = {}
    submitted_s: list[float] = []
    transfers: list[float] = []
    base_s = _idle_submit_s(bench)
    for name, policy in POLICIES.items():
        if policy.holds == "everything":
            decisions[name] = [(1.0, 1.0, 0.0)]  # it is never asked
            continue
        decisions[name] = []
        for context_tokens, pages in _decided_points(bench.plan, name):
            parts, counts = _decide_run(bench, name, context_tokens, pages)
            host_s = parts["decide"]
            if policy.attends == "everything":
                host_s = host_s + parts["select"] + parts["sync"] + parts["choose"]
            else:
                submitted_s += (parts["submit"] * bench.num_layers).tolist()
                transfers += counts.tolist()
            decisions[name] += [(pages, 1.0, time_s) for time_s in host_s.tolist()]
    return HostCosts(
        decisions=decisions,
        submit_s=cost_per_event_s(submitted_s, transfers, base_s),
        write_back_s=cost_per_event_s(*_write_back_run(bench), base_s),
    )


def num_host_steps(plan: Plan) -> int:
    """Return the steps that `host_samples` takes, for a progress bar."""
    points = sum(len(_decided_points(plan, name)) for name, policy in POLICIES.items() if policy.holds == "budget")
    return (points + 2) * (_WARMUP_STEPS + plan.num_decided_steps)


def _decided_points(plan: Plan, policy: str) -> list[tuple[int, int]]:
    """Return (tokens of context, pages selected) of the runs that time a policy's decisions."""
    page_tokens = _page_tokens(plan)
    if POLICIES[policy].attends == "everything":
        return [(context, context // page_tokens) for context in plan.decided_contexts_tokens]
    return [(plan.decided_context_tokens, pages) for pages in plan.decided_pages]


def _page_tokens(plan: Plan) -> int:
    return plan.page_tokens[len(plan.page_tokens) // 2]


def _decide_run(bench: Bench, policy: str, context_tokens: int, pages: int) -> tuple[dict[str, FloatArray], FloatArray]:
    """Return the parts by step of one policy under pressure, and the transfers to the device of each step."""
    total = context_tokens // _page_tokens(bench.plan)
    # Room for all but a tenth: a random selection then misses a few pages a layer, as real ones do.
    per_layer = max(pages, round(0.9 * total))
    if POLICIES[policy].attends == "everything":
        per_layer = total // 2
    return _host_run(bench, policy, context_tokens, pages, capacity_pages=max(per_layer * bench.num_layers, 2 * total))


def _idle_submit_s(bench: Bench) -> float:
    """Return what the submission part of a step takes when there is nothing to submit."""
    parts, _ = _host_run(bench, "lru", min(bench.plan.decided_contexts_tokens), 4)
    return float(np.median(parts["submit"])) * bench.num_layers


def _write_back_run(bench: Bench) -> tuple[list[float], list[float]]:
    """Return by step the submission time and the write-backs of a run whose every step fills a page a layer."""
    parts, counts = _host_run(bench, "lru", min(bench.plan.decided_contexts_tokens), 4, is_filling=True)
    return (parts["submit"] * bench.num_layers).tolist(), counts.tolist()


def _host_run(
    bench: Bench,
    policy: str,
    context_tokens: int,
    pages: int,
    *,
    capacity_pages: int | None = None,
    is_filling: bool = False,
) -> tuple[dict[str, FloatArray], FloatArray]:
    """Return the parts by step of a run of one sequence, and the transfers of each step; disturbed steps left out."""
    num_steps = bench.plan.num_decided_steps
    max_steps = _MAX_ROUNDS * (num_steps + _WARMUP_STEPS)
    with bench.decoder(
        policy,
        page_tokens=_page_tokens(bench.plan),
        num_sequences=1,
        context_tokens=context_tokens,
        max_steps=max_steps,
        capacity_pages=capacity_pages,
        is_filling=is_filling,
    ) as (decoder, schedule, stamps, _):
        # The worker's turns at the interpreter count as waiting, hence more patience than where nothing moves.
        _, quiet = bench.quiet_steps(decoder, schedule, stamps, [pages] * num_steps, idle_frac=0.1)
        moved = decoder.link.drain()
    parts = _step_parts(stamps, bench.num_layers)
    return {name: part[quiet] for name, part in parts.items()}, _by_step(moved, len(quiet))[quiet]


def _by_step(transfers: list[Transfer], num_steps: int) -> FloatArray:
    return np.bincount([transfer.step for transfer in transfers], minlength=num_steps).astype(np.float64)


def compute_slowdown_frac(bench: Bench) -> float:
    """Return how much longer the compute of a step takes while transfers to the device run all through it.

    Steps with and without a busy link take turns, so that a drift of the machine counts for neither. It needs two
    processors to itself: of up to three tries, the one that other programs disturbed least counts.
    """
    tries: list[tuple[float, float]] = []
    for _ in range(_MAX_ROUNDS):
        neighbours = Neighbours()
        found_frac = _slowdown_try(bench)
        tries.append((neighbours.busy_frac(), found_frac))
        if tries[-1][0] < _QUIET_FRAC:
            break
    return min(tries)[1]


def _slowdown_try(bench: Bench) -> float:
    num_steps = _WARMUP_STEPS + bench.plan.num_slowed_steps
    page_tokens = _page_tokens(bench.plan)
    with bench.decoder(
        "resident",
        page_tokens=page_tokens,
        num_sequences=1,
        context_tokens=bench.plan.decided_context_tokens,
        max_steps=num_steps,
    ) as (decoder, schedule, stamps, pool):
        schedule.attend(bench.plan.decided_pages[1])
        beside = Beside(bench.tokens, bench.shape, page_tokens, bench.bandwidth_bytes_per_s, pool.page_bytes)
        step_s = 0.1
        for step in range(num_steps):
            if step % 2:
                beside.keep_busy(2 * step_s)
            step_s = bench.step(decoder).step_s
            bench.advance(1)
            beside.rest()
        beside.link.close()
    parts = _step_parts(stamps, bench.num_layers)
    total_s = sum(parts[name] * (bench.num_layers if name in LAYER_PARTS else 1) for name in _COMPUTE)
    assert isinstance(total_s, np.ndarray)
    return slowdown_frac(total_s[_WARMUP_STEPS + 1 :: 2].tolist(), total_s[_WARMUP_STEPS::2].tolist())


class Beside:
    """A link of its own that copies between pools of its own, beside the run that is timed."""

    def __init__(
        self, tokens: torch.Tensor, shape: ModelShape, page_tokens: int, bandwidth_bytes_per_s: float, page_bytes: int
    ) -> None:
        pages = min(64, len(tokens) // page_tokens)
        grid = PageGrid(num_sequences=1, num_layers=1, pages_per_layer=pages)
        host = tokens[: pages * page_tokens].view(1, 1, pages * page_tokens, *tokens.shape[1:])
        self._pool = PagePool(grid, host, page_tokens=page_tokens, num_slots=pages, device="cpu")
        self._pool.is_on_host[:] = True
        self._slots = self._pool.take(np.arange(pages))
        self._chunk_s = 4 * page_bytes / bandwidth_bytes_per_s
        self.link = EmulatedLink(self._pool, bandwidth_bytes_per_s)
        assert shape.page_bytes(page_tokens) == page_bytes == self._pool.page_bytes

    def keep_busy(self, time_s: float) -> None:
        """Queue prefetches of four pages for at least `time_s`, and let the first one start."""
        for chunk in range(int(time_s / self._chunk_s) + 1):
            pages = (np.arange(4) + 4 * chunk) % len(self._slots)
            self.link.submit(Transfer(kind="prefetch", pages=pages, slots=self._slots[pages], step=0))

    def rest(self) -> None:
        """Wait until all is copied."""
        self.link.drain()
