"""A prompt cache, simulated: its books decide prompt by prompt, and each is charged transfer and computation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.caches.prompts.accounting import Keeping, PromptBooks, Reuse
from kvsim.errors import ResultError
from kvsim.experiments.base import cells_of, make_result, profile_of, shape_of
from kvsim.experiments.prompt_cache.costs import PromptCosts
from kvsim.experiments.prompt_cache.prompts import digest_of, prompts_of
from kvsim.experiments.prompt_cache.report import (
    COLUMNS,
    LEGEND,
    break_evens,
    break_evens_beside,
    break_evens_text,
    prompt_figure,
    verdict_of,
)
from kvsim.experiments.prompt_cache.scenario import PromptCacheScenario, PromptsChoice
from kvsim.experiments.types import Compared, Job
from kvsim.profile.profile import Profile
from kvsim.report.pairs import cells_text, pair_cells, pairs_csv, pairs_figure, pairs_text
from kvsim.report.results import RunResult, summary_json
from kvsim.report.style import png
from kvsim.types import FloatArray, IntArray

KEYS = ("tier", "policy", "shared_tokens", "budget_bytes", "link_bytes_per_s")
FIGURES = ("ttft_mean_s", "ttft_hit_s", "ttft_hit_full_s", "keep_mean_s")
COUNTS = ("hits", "reused_tokens", "host_hits", "evicted", "demoted", "kept_bytes")


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
    cells = cells_of(scenario)
    streams = Streams(base_dir)
    for cell, _ in cells:
        PromptCosts(profile_of(cell, base_dir), cell)
        books_of(cell, streams.of(cell))
    return len(cells)


def simulate(scenario: PromptCacheScenario, job: Job) -> RunResult:
    """Send every cell's prompts through its books."""
    found = cells_of(scenario)
    entries, tables, streams = [], [], Streams(job.base_dir)
    profile = profile_of(found[0][0], job.base_dir)
    for number, (cell, _) in enumerate(found):
        profile = profile_of(cell, job.base_dir)
        prompts = streams.of(cell)
        costs = PromptCosts(profile, cell)
        sent = _send(cell, prompts, costs)
        entry = cell_of(cell, prompts, sent)
        outside = [costs.is_outside(prompt.size, reuse) for prompt, reuse in zip(prompts, sent.reuses, strict=True)]
        entries.append(entry | {"ttft_outside_frac": float(np.mean(outside))})
        tables.append(rows_of(number, prompts, sent))
        job.progress(1 / len(found))
    return result_of(scenario, job, entries, tables, streams, profile=profile)


def _send(cell: PromptCacheScenario, prompts: Sequence[IntArray], costs: PromptCosts) -> Sent:
    books = books_of(cell, prompts)
    reuses, keepings = zip(*(books.request(prompt) for prompt in prompts), strict=True)
    restore_s = np.array([costs.restore_s(reuse) for reuse in reuses])
    pairs = list(zip(prompts, reuses, strict=True))
    computed_s = [costs.compute_s(prompt.size - reuse.tokens, reuse.tokens) for prompt, reuse in pairs]
    return Sent(
        reuses=reuses,
        keepings=keepings,
        ttft_s=restore_s + np.array(computed_s),
        full_s=np.array([costs.compute_s(prompt.size, 0) for prompt in prompts]),
        restore_s=restore_s,
        keep_s=np.array([costs.keep_s(kept, prompt.size) for prompt, kept in zip(prompts, keepings, strict=True)]),
        kept_bytes=books.used_bytes("device") + books.used_bytes("host"),
    )


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


def books_of(cell: PromptCacheScenario, prompts: Sequence[IntArray]) -> PromptBooks:
    """Return the empty books of a cell that will be sent `prompts`.

    Raises
    ------
    CapacityError
        If its budget cannot hold a token.
    """
    tiers = cell.cache.tiers(all_bytes(cell, prompts))
    return PromptBooks(token_bytes(cell), tiers, least_tokens=cell.cache.least_tokens)


def cell_of(cell: PromptCacheScenario, prompts: Sequence[IntArray], sent: Sent) -> dict[str, Any]:
    """Return the cell's entry of the summary."""
    reused = np.array([reuse.tokens for reuse in sent.reuses])
    is_hit = reused > 0
    moves = [move for kept in sent.keepings for move in kept.moves]
    found: dict[str, Any] = {
        "tier": cell.cache.tier,
        "policy": cell.cache.policy,
        "shared_tokens": cell.prompts.shared_tokens,
        "budget_bytes": cell.cache.budget_of(all_bytes(cell, prompts)),
        "host_bytes": cell.cache.host_bytes,
        "least_tokens": cell.cache.least_tokens,
        "link_bytes_per_s": cell.cache.link_bytes_per_s if cell.cache.tier != "device" else None,
        "num_requests": len(prompts),
        "prompt_tokens": sum(prompt.size for prompt in prompts),
        "hits": int(is_hit.sum()),
        "host_hits": sum(reuse.tier == "host" for reuse in sent.reuses),
        "reused_tokens": int(reused.sum()),
        "reused_frac": float(reused.sum() / sum(prompt.size for prompt in prompts)),
        "evicted": sum(move.to is None and not move.is_replaced for move in moves),
        "demoted": sum(move.to is not None for move in moves),
        "kept_bytes": sent.kept_bytes,
        "ttft_mean_s": float(sent.ttft_s.mean()),
        "ttft_full_mean_s": float(sent.full_s.mean()),
        "keep_mean_s": float(sent.keep_s.mean()),
    }
    return found | _of_hits(sent, is_hit, int(reused.sum()) * token_bytes(cell))


def _of_hits(sent: Sent, is_hit: NDArray[np.bool_], hit_bytes: int) -> dict[str, Any]:
    """Return the figures of the prompts that reused something; None where none did."""
    if not is_hit.any():
        return dict.fromkeys(("ttft_hit_s", "ttft_hit_full_s", "speedup", "restore_hit_s", "least_link_bytes_per_s"))
    hit_s, full_s = float(sent.ttft_s[is_hit].mean()), float(sent.full_s[is_hit].mean())
    spared_s = float((sent.full_s - sent.ttft_s + sent.restore_s)[is_hit].sum())
    return {
        "ttft_hit_s": hit_s,
        "ttft_hit_full_s": full_s,
        "speedup": full_s / hit_s,
        "restore_hit_s": float(sent.restore_s[is_hit].mean()),
        "least_link_bytes_per_s": hit_bytes / spared_s if spared_s > 0 else None,
    }


def rows_of(number: int, prompts: Sequence[IntArray], sent: Sent) -> dict[str, NDArray[Any]]:
    """Return a row for each prompt of one cell."""
    size = len(prompts)
    return {
        "cell": np.full(size, number),
        "request": np.arange(size),
        "prompt_tokens": np.array([prompt.size for prompt in prompts]),
        "reused_tokens": np.array([reuse.tokens for reuse in sent.reuses]),
        "from_host": np.array([reuse.tier == "host" for reuse in sent.reuses]),
        "left": np.array([len(kept.moves) for kept in sent.keepings]),
        "ttft_s": sent.ttft_s,
        "ttft_full_s": sent.full_s,
        "restore_s": sent.restore_s,
        "keep_s": sent.keep_s,
    }


def result_of(
    scenario: PromptCacheScenario,
    job: Job,
    entries: list[dict[str, Any]],
    tables: list[dict[str, NDArray[Any]]],
    streams: Streams,
    *,
    profile: Profile,
    is_measured: bool = False,
) -> RunResult:
    """Return the result of all cells, simulated or measured, with the break-even of each group of them."""
    crossings = break_evens(entries)
    return make_result(
        scenario,
        job,
        cells=entries,
        rows={name: np.concatenate([table[name] for table in tables]) for name in tables[0]},
        verdict=verdict_of(entries, crossings, is_emulated=profile.link.emulated, stands_in=scenario.prompts.trace),
        profile=profile,
        is_measured=is_measured,
        extra={"break_evens": crossings, "prompts_digest": streams.digest()},
    )


def show(summary: Mapping[str, Any]) -> str:
    """Return the table of the cells, the break-evens and the verdict."""
    profile = summary["profile"]
    how = "measured" if summary.get("is_measured") else f"costs of {profile['name']} ({profile['kind']})"
    parts = [f"{summary['scenario']}: {how}", f"{cells_text(summary['cells'], COLUMNS)}\n{LEGEND}"]
    if summary["break_evens"]:
        parts.append(break_evens_text(summary["break_evens"]))
    return "\n\n".join([*parts, "\n".join(summary["verdict"])])


def figures(result: RunResult) -> dict[str, bytes]:
    """Return the time to first token over what prompts share, or over the budget."""
    return {"prompt_cache.png": png(prompt_figure(result.summary))}


def compare(simulated: RunResult, measured: RunResult) -> Compared:
    """Compare what was reused and what left, which must be equal, times to first token, and the break-evens."""
    pairs = pair_cells(simulated, measured, keys=KEYS, figures=FIGURES, counts=COUNTS)
    if simulated.summary["prompts_digest"] != measured.summary["prompts_digest"]:
        raise ResultError("the results are of different prompts; simulate again where the measured one was made")
    real = measured.rows
    errors = simulated.rows["ttft_s"] / real["ttft_s"] - 1
    busy_errors = simulated.rows["ttft_s"] / real["busy_s"] - 1
    cells = measured.summary["cells"]
    found = {
        "requests_equal": all(
            np.array_equal(simulated.rows[name], real[name]) for name in ("reused_tokens", "from_host", "left")
        ),
        "request_ttft_median_error_frac": float(np.median(np.abs(errors))),
        "request_ttft_worst_error_frac": float(errors[np.argmax(np.abs(errors))]),
        "request_busy_median_error_frac": float(np.median(np.abs(busy_errors))),
        "next_token_agreement_frac": min(cell["next_token_agreement_frac"] for cell in cells),
        "max_logit_difference": max(cell["max_logit_difference"] for cell in cells),
        "break_evens": break_evens_beside(simulated.summary["break_evens"], measured.summary["break_evens"]),
    }
    contents = pairs.summary() | found
    lines = [
        pairs_text(pairs, COLUMNS),
        f"equal for every prompt, what it reused, from where, what left: {'yes' if found['requests_equal'] else 'NO'}",
        f"time to first token of a prompt: median error {100 * found['request_ttft_median_error_frac']:.1f}%, "
        f"worst {100 * found['request_ttft_worst_error_frac']:+.1f}%",
        "  against the time they waited for the link and computed, which others on the machine do not lengthen: median "
        f"error {100 * found['request_busy_median_error_frac']:.1f}% (on a CPU and one thread only)",
        f"against no cache: same next token for {100 * found['next_token_agreement_frac']:.0f}% of the prompts, "
        f"logits at most {found['max_logit_difference']:.3g} apart",
    ]
    if found["break_evens"]:
        lines += ["", break_evens_text(found["break_evens"])]
    overlaid = prompt_figure(measured.summary, simulated.summary)
    return Compared(
        contents=contents,
        text="\n".join(lines),
        files={
            "prompt_cache_compared.png": png(overlaid),
            "compare.png": png(pairs_figure(pairs, by="tier")),
            "compare.csv": pairs_csv(pairs).encode(),
            "compare.json": summary_json(contents).encode(),
        },
    )
