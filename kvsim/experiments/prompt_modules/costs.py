"""What a prompt of modules takes, from a profile's tables, and what the cells of a scenario count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import CalibrationError
from kvsim.experiments.base import prefill_or_reason
from kvsim.experiments.prompt_modules.accounting import Served
from kvsim.experiments.prompt_modules.case import Case
from kvsim.experiments.prompt_modules.cell import ModulesCell, PromptEntry
from kvsim.experiments.prompt_modules.scenario import PromptModules
from kvsim.experiments.prompt_modules.schema import Assembly
from kvsim.profile.prefill import PrefillCost
from kvsim.profile.profile import Profile
from kvsim.report.applies import ratio
from kvsim.types import FloatArray, Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """A profile's costs of prompts.

    Modules that are on the host come
    in one transfer (``restore.host``); where parts lie on the device they are joined there, which costs what copying
    that many tokens does (``store.device``), as taking a module out of the pass that encodes it does.
    """

    profile: Profile
    prefill: PrefillCost

    def read_s(self, new_tokens: int, cached_tokens: int) -> float:
        """Return the seconds to read new tokens after cached ones, in chunks."""
        return self.prefill.time_s(new_tokens, cached_tokens)

    def full_s(self, assembly: Assembly) -> float:
        """Return the time to first token under full attention, without a store."""
        return self.read_s(assembly.num_tokens, 0)

    def ttft_s(self, case: Case, assembly: Assembly, served: Served, tier: Tier) -> float:
        """Return the time to first token of a prompt whose units met in the store what `served` says."""
        is_hit = dict(zip(served.units, served.is_hit, strict=True))
        stored = sum(part.stop - part.start for part in assembly.parts if is_hit[part.unit])
        encoded = [case.layout.units[unit].num_tokens for unit, hit in is_hit.items() if not hit]
        time_s = sum(self.read_s(tokens, 0) + self._at_s("store.device", tokens) for tokens in encoded)
        time_s += self._at_s(f"restore.{tier}", stored)
        if len(assembly.parts) > 1 and (tier == "device" or stored < assembly.reused_tokens):
            time_s += self._at_s("store.device", assembly.reused_tokens)
        return time_s + self.read_s(assembly.fresh_tokens, assembly.reused_tokens)

    def is_outside(self, assembly: Assembly, tier: Tier) -> bool:
        """Return whether a prompt is longer than anything that the profile measured of prefill or of restoring."""
        restore = self.profile.cache_cost(f"restore.{tier}")
        new = np.array([assembly.num_tokens, assembly.fresh_tokens])
        _, is_outside = self.prefill.times_s(new, np.array([0, assembly.reused_tokens]))
        return bool(is_outside.any()) or assembly.reused_tokens > restore.amounts[-1]

    def _at_s(self, name: str, tokens: int) -> float:
        return self.profile.cache_cost(name).at_s(tokens) if tokens else 0.0


def costs_of(cell: PromptModules, case: Case, profile: Profile) -> Costs:
    """Return the costs of a cell.

    Raises
    ------
    CalibrationError
        If the profile lacks one, or its times cannot be.
    """
    for name in ("store.device", f"restore.{cell.cache.tier}"):
        profile.cache_cost(name)
    longest = max(assembly.num_tokens for assembly in case.assemblies)
    prefill = prefill_or_reason(cell, profile, chunk_tokens=cell.prefill_chunk_tokens, longest_tokens=longest)
    if isinstance(prefill, str):
        raise CalibrationError(f"{cell.name}: {prefill}")
    return Costs(profile=profile, prefill=prefill)


def all_stored(assembly: Assembly) -> Served:
    """Return what a prompt meets where everything is stored."""
    units = assembly.units
    return Served(
        units=units, is_hit=(True,) * len(units), victims=(None,) * len(units), is_let_in=(True,) * len(units)
    )


def counts_of(case: Case, cell: PromptModules) -> tuple[list[Served], dict[str, NDArray[np.int64]]]:
    """Return what every request meets in an empty store of the cell, and its counts, ``[num_requests]`` each."""
    state = case.state(cell)
    served, rows = [], []
    for request in case.requests:
        done = state.serve(case.assemblies[request].units)
        tokens = [case.layout.units[unit].num_tokens for unit in done.units]
        hit_tokens = sum(size for size, hit in zip(tokens, done.is_hit, strict=True) if hit)
        held = sum(case.layout.units[unit].num_tokens for unit in state.stored)
        served.append(done)
        misses = len(done.units) - done.num_hits
        rows.append(
            (done.num_hits, misses, done.num_evicted, hit_tokens, sum(tokens) - hit_tokens, held * case.token_bytes)
        )
    return served, counts_table(rows)


COUNTED = ("hits", "misses", "evictions", "hit_tokens", "encoded_tokens", "held_bytes")
"""Counts of a request: units found, encoded and evicted, tokens of those found and encoded, bytes held afterwards."""


def counts_table(rows: Sequence[tuple[int, ...]]) -> dict[str, NDArray[np.int64]]:
    """Return the counts of requests by name, from a tuple in the order of `COUNTED` for each."""
    table = np.array(rows, dtype=np.int64).reshape(len(rows), len(COUNTED))
    return {name: table[:, place] for place, name in enumerate(COUNTED)}


def cell_of(
    cell: PromptModules, case: Case, counts: dict[str, NDArray[np.int64]], *, ttft_s: FloatArray, full_s: FloatArray
) -> ModulesCell:
    """Return the cell's entry of the summary.

    Parameters
    ----------
    ttft_s, full_s
        Of every request through the store, and of the same prompts under full attention.
    """
    hits, misses = int(counts["hits"].sum()), int(counts["misses"].sum())
    hit_tokens, encoded_tokens = int(counts["hit_tokens"].sum()), int(counts["encoded_tokens"].sum())
    read = [case.layout.units[unit].num_tokens for unit in case.read_units]
    return {
        "tier": cell.cache.tier,
        "policy": cell.cache.policy,
        "budget_modules": case.budget_units,
        "scaffolds": cell.encoding.scaffolds,
        "seen": cell.encoding.seen,
        "num_requests": int(case.requests.size),
        "num_prompts": len(case.assemblies),
        "read_modules": len(read),
        "all_bytes": sum(read) * case.token_bytes,
        "module_hits": hits,
        "module_misses": misses,
        "evictions": int(counts["evictions"].sum()),
        "hit_tokens": hit_tokens,
        "encoded_tokens": encoded_tokens,
        "module_hit_frac": ratio(hits, hits + misses),
        "token_hit_frac": ratio(hit_tokens, hit_tokens + encoded_tokens),
        "peak_bytes": int(counts["held_bytes"].max()),
        "ttft_mean_s": float(ttft_s.mean()),
        "ttft_full_mean_s": float(full_s.mean()),
        "ttft_saved_frac": 1 - float(ttft_s.mean()) / float(full_s.mean()),
    }


def prompt_key(prompt: PromptEntry) -> tuple[Any, ...]:
    """Return which prompt it is, of which cells."""
    return prompt["prompt"], prompt["tier"], prompt["scaffolds"], prompt["seen"]


def prompt_of(cell: PromptModules, assembly: Assembly, *, ttft_s: float, full_s: float) -> PromptEntry:
    """Return the entry of one prompt whose modules are all stored, on the tier of the cell."""
    return {
        "prompt": assembly.name,
        "tier": cell.cache.tier,
        "scaffolds": cell.encoding.scaffolds,
        "seen": cell.encoding.seen,
        "modules": len(assembly.units),
        "tokens": assembly.num_tokens,
        "reused_tokens": assembly.reused_tokens,
        "fresh_tokens": assembly.fresh_tokens,
        "ttft_s": ttft_s,
        "ttft_full_s": full_s,
        "speed_vs_full": full_s / ttft_s,
    }


def rows_of(
    case: Case, counts: dict[str, NDArray[np.int64]], *, ttft_s: FloatArray, full_s: FloatArray
) -> dict[str, NDArray[Any]]:
    """Return a row for each request of one cell."""
    own = {"request": np.arange(case.requests.size), "prompt": case.requests}
    return {**own, **counts, "ttft_s": ttft_s, "ttft_full_s": full_s}
