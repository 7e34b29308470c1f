"""A prompt cache, simulated: its cache state decides prompt by prompt, and each is charged transfer and computation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.caches.prompts.accounting import Keeping, PromptCacheState, Reuse
from kvsim.experiments.base import make_result, profile_of, shape_of
from kvsim.experiments.prompt_cache.cell import PromptsCell
from kvsim.experiments.prompt_cache.costs import PromptCosts
from kvsim.experiments.prompt_cache.prompts import digest_of, prompts_of
from kvsim.experiments.prompt_cache.report.break_even import break_evens
from kvsim.experiments.prompt_cache.report.tables import verdict_of
from kvsim.experiments.prompt_cache.scenario import PromptCacheScenario, PromptsChoice
from kvsim.experiments.types import Job
from kvsim.profile.profile import Profile
from kvsim.report.applies import mean
from kvsim.report.results import RunResult
from kvsim.scenario.shapes import check_context
from kvsim.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What happened to the prompts of one cell, simulated or measured; an entry a prompt."""

    reuses: Sequence[Reuse]
    keepings: Sequence[Keeping]
    ttft_s: FloatArray
    full_s: FloatArray
    """Time to first token of the same prompts without a cache."""
    restore_s: FloatArray
    keep_s: FloatArray
    kept_bytes: int
    """Of all prompts kept after the last one."""


def check(scenario: PromptCacheScenario, base_dir: Path | None) -> int:
    """Check profile, costs, prompts and budgets, and return the number of cells."""
    streams = Streams(base_dir)
    for cell in scenario.cells:
        prompts = streams.of(cell)
        PromptCosts(profile_of(cell, base_dir), cell, longest_of(cell, prompts))
        state_of(cell, prompts)
    return len(scenario.cells)


def warnings(scenario: PromptCacheScenario, beside: Path | None) -> list[str]:
    """Return a line if times are not known."""
    streams, lines = Streams(beside), []
    for cell in scenario.cells:
        lines.append(PromptCosts(profile_of(cell, beside), cell, longest_of(cell, streams.of(cell))).unknown)
    return list(dict.fromkeys(line for line in lines if line is not None))


def longest_of(cell: PromptCacheScenario, prompts: Sequence[IntArray]) -> int:
    """Return the tokens of the longest prompt.

    Raises
    ------
    CapacityError
        If the model has no positions for it.
    """
    longest = max(prompt.size for prompt in prompts)
    check_context(shape_of(cell), longest, cell.name)
    return longest


def simulate(scenario: PromptCacheScenario, job: Job) -> RunResult:
    """Send every cell's prompts through its cache state."""
    entries, tables, streams, unknown = [], [], Streams(job.base_dir), []
    for cell in scenario.cells:
        profile = profile_of(cell, job.base_dir)
        prompts = streams.of(cell)
        costs = PromptCosts(profile, cell, longest_of(cell, prompts))
        unknown.append(costs.unknown)
        sent, is_outside = _send(cell, prompts, costs)
        outside_frac = None if costs.unknown else float(is_outside.mean())
        entry = cell_of(cell, prompts, sent)
        entry["ttft_outside_frac"] = outside_frac
        entries.append(entry)
        tables.append(rows_of(prompts, sent))
        job.progress(1 / len(scenario.cells))
    return result_of(scenario, job, entries, tables, streams, profile=profile, unknown=unknown)


def _send(cell: PromptCacheScenario, prompts: Sequence[IntArray], costs: PromptCosts) -> tuple[Sent, BoolArray]:
    """Return what happened to the prompts, and which of them ask for more than the profile measured."""
    state = state_of(cell, prompts)
    reuses, keepings = zip(*(state.request(prompt) for prompt in prompts), strict=True)
    restore_s = np.array([costs.restore_s(reuse) for reuse in reuses])
    sizes = np.array([prompt.size for prompt in prompts])
    reused = np.array([reuse.tokens for reuse in reuses])
    computed_s, is_outside = costs.compute_s(sizes - reused, reused)
    sent = Sent(
        reuses=reuses,
        keepings=keepings,
        ttft_s=restore_s + computed_s,
        full_s=costs.compute_s(sizes, 0)[0],
        restore_s=restore_s,
        keep_s=np.array(
            [costs.keep_s(keeping, prompt.size) for prompt, keeping in zip(prompts, keepings, strict=True)]
        ),
        kept_bytes=state.used_bytes("device") + state.used_bytes("host"),
    )
    return sent, is_outside | np.array([costs.is_restored_outside(reuse) for reuse in reuses])


class Streams:
    """The prompts of the cells, made once for those that send the same."""

    def __init__(self, beside: Path | None) -> None:
        self._beside = beside
        self._made: dict[PromptsChoice, list[IntArray]] = {}

    def of(self, cell: PromptCacheScenario) -> list[IntArray]:
        """Return the prompts of a cell."""
        if cell.prompts not in self._made:
            self._made[cell.prompts] = prompts_of(cell.prompts, shape_of(cell).vocab_size, self._beside)
        return self._made[cell.prompts]

    def digest(self) -> str:
        """Return a digest of all prompts made so far."""
        return "-".join(digest_of(prompts) for prompts in self._made.values())


def token_bytes(cell: PromptCacheScenario) -> int:
    """Return the bytes of keys and values of one token in all layers."""
    shape = shape_of(cell)
    return shape.num_layers * shape.page_bytes(1)


def all_bytes(cell: PromptCacheScenario, prompts: Sequence[IntArray]) -> int:
    """Return what keeping every prompt would take."""
    return token_bytes(cell) * sum(prompt.size for prompt in prompts)


def state_of(cell: PromptCacheScenario, prompts: Sequence[IntArray]) -> PromptCacheState:
    """Return the empty cache state of a cell that will be sent `prompts`.

    Raises
    ------
    CapacityError
        If its budget cannot hold a token.
    """
    tiers = cell.cache.tiers(all_bytes(cell, prompts))
    return PromptCacheState(token_bytes(cell), tiers, least_tokens=cell.cache.least_tokens)


def cell_of(cell: PromptCacheScenario, prompts: Sequence[IntArray], sent: Sent) -> PromptsCell:
    """Return the cell's entry of the summary."""
    reused = np.array([reuse.tokens for reuse in sent.reuses])
    is_hit = reused > 0
    moves = [move for keeping in sent.keepings for move in keeping.moves]
    prompt_tokens = sum(prompt.size for prompt in prompts)
    hit_s, full_s = mean(sent.ttft_s[is_hit]), mean(sent.full_s[is_hit])
    spared_s = float((sent.full_s - sent.ttft_s + sent.restore_s)[is_hit].sum())
    return {
        "tier": cell.cache.tier,
        "policy": cell.cache.policy,
        "shared_tokens": cell.prompts.shared_tokens,
        "budget_bytes": cell.cache.budget_of(all_bytes(cell, prompts)),
        "host_bytes": cell.cache.host_bytes,
        "least_tokens": cell.cache.least_tokens,
        "link_bytes_per_s": cell.cache.link_bytes_per_s if cell.cache.tier != "device" else None,
        "num_requests": len(prompts),
        "prompt_tokens": prompt_tokens,
        "hits": int(is_hit.sum()),
        "host_hits": sum(reuse.tier == "host" for reuse in sent.reuses),
        "reused_tokens": int(reused.sum()),
        "reused_frac": float(reused.sum() / prompt_tokens),
        "evicted": sum(move.to is None and not move.is_replaced for move in moves),
        "demoted": sum(move.to is not None for move in moves),
        "kept_bytes": sent.kept_bytes,
        "ttft_mean_s": mean(sent.ttft_s),
        "ttft_full_mean_s": mean(sent.full_s),
        "keep_mean_s": mean(sent.keep_s),
        "ttft_hit_s": hit_s,
        "ttft_hit_full_s": full_s,
        "speedup": full_s / hit_s if full_s is not None and hit_s is not None else None,
        "restore_hit_s": mean(sent.restore_s[is_hit]),
        "least_link_bytes_per_s": int(reused.sum()) * token_bytes(cell) / spared_s if spared_s > 0 else None,
    }


def rows_of(prompts: Sequence[IntArray], sent: Sent) -> dict[str, NDArray[Any]]:
    """Return a row for each prompt of one cell."""
    return {
        "request": np.arange(len(prompts)),
        "prompt_tokens": np.array([prompt.size for prompt in prompts]),
        "reused_tokens": np.array([reuse.tokens for reuse in sent.reuses]),
        "from_host": np.array([reuse.tier == "host" for reuse in sent.reuses]),
        "left": np.array([len(keeping.moves) for keeping in sent.keepings]),
        "ttft_s": sent.ttft_s,
        "ttft_full_s": sent.full_s,
        "restore_s": sent.restore_s,
        "keep_s": sent.keep_s,
    }


def result_of(
    scenario: PromptCacheScenario,
    job: Job,
    entries: list[PromptsCell],
    tables: list[dict[str, NDArray[Any]]],
    streams: Streams,
    *,
    profile: Profile,
    is_measured: bool = False,
    unknown: Sequence[str | None] = (),
) -> RunResult:
    """Return the result of all cells, simulated or measured, with the break-even of each group of them.

    Parameters
    ----------
    unknown
        Why times are not known, for the cells where they are not; the last reason is shown.
    """
    crossings = break_evens(entries)
    lines = verdict_of(entries, crossings, is_emulated=profile.link.emulated, stands_in=scenario.prompts.trace)
    return make_result(
        scenario,
        job,
        cells=entries,
        rows=tables,
        verdict=[*list(filter(None, unknown))[-1:], *lines],
        profile=profile,
        is_measured=is_measured,
        extra={"break_evens": crossings, "prompts_digest": streams.digest()},
    )
