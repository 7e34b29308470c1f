"""How well prefetchers foretell what attention reads next, and what that is worth at equal bytes over the link."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import joblib
import numpy as np

from kvsim.errors import ScenarioError
from kvsim.experiments.decode.predictors.accuracy import Accuracy, measure_accuracy
from kvsim.policies import Setting, make_policy
from kvsim.policies.selectors import TopK
from kvsim.profile.profile import SPECULATE, Profile, SegmentCost, load_profile
from kvsim.profile.provenance import make_manifest
from kvsim.profile.tables import CostTable
from kvsim.report.results import RunResult, summary_json
from kvsim.scenario.digest import content_digest
from kvsim.scenario.shipped import find_capture, find_profile
from kvsim.sim import Replay, SimulationInput, simulate_decode
from kvsim.traces import open_trace

Record: TypeAlias = dict[str, Any]

PAGE_TOKENS = 32
CHANNEL = "estimate:quest"
SINK_PAGES, RECENT_PAGES = 1, 4
"""Never fetched: the first 32 tokens and the last 128. What is foretold is the middle between them."""
WARMUP_STEPS = 8
QUOTA_PAGES = 64
CHUNK_PAGES, WINDOW_TRANSFERS = 8, 8
_SEARCH_STEPS = 12
"""Most halvings in search of the knob that moves as many bytes as wanted."""
_TIMES = ("stall_s", "select_s", "step_s")
_NEAR_FRAC = 0.01
"""Bytes that are as near as this to those wanted end the search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """A prefetcher beside an eviction, and the argument that says how many pages it fetches."""

    name: str
    prefetch: str
    eviction: str = "lru"
    knob: str | None = None
    """Argument that is searched for the wanted bytes; None where nothing is to be set."""
    few: float = 0.0
    """Value of `knob` at which next to nothing is fetched."""
    many: float = 0.0
    """Value of `knob` at which more is fetched than pays."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Other arguments that the table sets; what it does not set is the prefetcher's default."""

    def value(self, share: float) -> float:
        """Return the knob at `share` of the way from few to many, on a logarithmic scale."""
        return float(self.few * (self.many / self.few) ** share)


ALONE = "lru"
"""What every other is set beside: the same eviction, and no prefetching."""

PREDICTORS = (
    Predictor(name=ALONE, prefetch="none"),
    Predictor(name="previous-step", prefetch="previous-step", knob="reach_frac", few=0.05, many=8.0),
    Predictor(name="window-union", prefetch="window-union", knob="reach_frac", few=0.05, many=8.0),
    Predictor(
        name="attention",
        prefetch="attention",
        knob="confidence",
        few=2.0,
        many=0.05,
        arguments={"confidence_step": 0.0},
    ),
    Predictor(name="speculation", prefetch="speculation", knob="reach_frac", few=0.05, many=8.0),
    Predictor(name="corrected", prefetch="corrected", knob="reach_frac", few=0.05, many=8.0),
    Predictor(name="learned", prefetch="learned", knob="threshold", few=0.95, many=0.001),
    Predictor(name="belady", prefetch="none", eviction="belady"),
    Predictor(name="oracle-prefetch", prefetch="oracle-prefetch", eviction="belady"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What the predictors are compared on."""

    captures: tuple[str, ...] = ("smollm2-docs", "smollm2-code", "smollm2-agent")
    profiles: tuple[str, ...] = ("cpu-smollm2-135m", "h200-llama-3-8b-published")
    k_pages: int = 8
    """Pages of the middle that attention reads in a layer, the best by estimate."""
    budgets: tuple[tuple[int, float], ...] = ((12, 1.25), (20, 1.75))
    """Device pages a layer, and the bytes to move in multiples of what `lru` alone moves with them."""
    tuned_on: str = "smollm2-docs"
    """The capture that defaults were set on."""


def compare_predictors(contest: Contest, progress: Callable[[float], None] | None = None) -> list[Record]:
    """Return a record for each capture, budget and predictor; captures and predictors are shared out to processes.

    Raises
    ------
    KvsimError
        If a capture or a profile is missing, or holds not what the table needs.
    """
    for profile in contest.profiles:
        load_profile(find_profile(profile, None))
    for capture in contest.captures:
        _replay(capture, contest.k_pages)
    tasks = [
        joblib.delayed(_judge)(contest, capture, predictor, budget_pages, moved_frac)
        for capture in contest.captures
        for budget_pages, moved_frac in contest.budgets
        for predictor in PREDICTORS
    ]
    records = []
    for record in joblib.Parallel(n_jobs=-1, return_as="generator")(tasks):
        records.append(record)
        if progress is not None:
            progress(1 / len(tasks))
    return _beside_alone(records)


def parse_budget(text: str) -> tuple[int, float]:
    """Return pages a layer and the bytes to move, from ``12:1.25``.

    Raises
    ------
    ScenarioError
        If it is not of that shape.
    """
    pages, _, moved = text.partition(":")
    try:
        budget_pages, moved_frac = int(pages), float(moved)
    except ValueError:
        raise ScenarioError(
            f"--budget {text}: should be pages a layer and a multiple of bytes, as in 12:1.25"
        ) from None
    if budget_pages < 1 or not moved_frac > 1:
        raise ScenarioError(f"--budget {text}: pages should be 1 or more, and the multiple of bytes above 1")
    return budget_pages, moved_frac


def result_of(contest: Contest, records: Sequence[Record], *, verdict: Sequence[str], command: str) -> RunResult:
    """Return the table as a result that a folder can hold: a cell for each record."""
    about = dataclasses.asdict(contest)
    text = summary_json({"contest": about, "predictors": [dataclasses.asdict(predictor) for predictor in PREDICTORS]})
    summary = {
        "schema_version": 1,
        "kind": "predictors",
        "scenario": "predictors",
        "question": "Which prefetcher foretells best what attention reads next, and what is it worth at equal bytes?",
        "contest": about,
        "cells": list(records),
        "verdict": list(verdict),
    }
    manifest = make_manifest(
        scenario_text=text, scenario_hash=content_digest(text, num_bytes=16)[:12], seed=0, command=command
    )
    return RunResult(summary=summary, rows={}, manifest=manifest)


def _beside_alone(records: Sequence[Record]) -> list[Record]:
    """Add to each record what it avoids of the misses and stalls of no prefetching."""
    alone = {(r["capture"], r["budget_pages"]): r for r in records if r["predictor"] == ALONE}
    finished = []
    for record in records:
        base = alone[record["capture"], record["budget_pages"]]
        more: Record = {
            "moved_vs_lru_frac": record["moved_pages"] / base["moved_pages"] if base["moved_pages"] else float("nan"),
            "misses_avoided_frac": 1 - record["misses"] / base["misses"] if base["misses"] else float("nan"),
        }
        finished.append(record | more)
    return finished


def _judge(contest: Contest, capture: str, predictor: Predictor, budget_pages: int, moved_frac: float) -> Record:
    """Return how one predictor fares on one capture with one budget."""
    replay = _replay(capture, contest.k_pages)
    loaded = {name: load_profile(find_profile(name, None)) for name in contest.profiles}
    profiles = {name: with_speculation(profile) for name, profile in loaded.items()}
    first = profiles[contest.profiles[0]]
    knob = None
    if predictor.knob is not None:
        alone = _run(replay, budget_pages, PREDICTORS[0], None, first)
        knob = _search(replay, budget_pages, predictor, first, moved_frac * alone["moved_pages"])
    figures = _run(replay, budget_pages, predictor, knob, first)
    record: Record = {
        "capture": capture,
        "is_tuned_on": capture == contest.tuned_on,
        "budget_pages": budget_pages,
        "k_pages": contest.k_pages,
        "predictor": predictor.name,
        "eviction": predictor.eviction,
        "knob": predictor.knob,
        "knob_value": knob,
        **_accuracy(replay, predictor),
        **{name: figures[name] for name in ("misses", "prefetched", "used", "wasted", "moved_pages")},
        "precision_frac": _share(figures["used"], figures["wasted"]),
        "recall_frac": _share(figures["used"], figures["misses"]),
    }
    for name, profile in profiles.items():
        timed = figures if profile is first else _run(replay, budget_pages, predictor, knob, profile)
        record |= {f"{part}@{name}": timed[part] for part in _TIMES}
        record[f"is_speculation_assumed@{name}"] = SPECULATE not in loaded[name].segments
    return record


def _share(part: float, rest: float) -> float:
    return part / (part + rest) if part + rest else float("nan")


def _search(replay: Replay, budget_pages: int, predictor: Predictor, profile: Profile, moved_pages: float) -> float:
    """Return the knob at which the pages moved come nearest to `moved_pages`; bytes grow with it, or nearly."""
    low, high = 0.0, 1.0
    found: list[tuple[float, float]] = []
    for _ in range(_SEARCH_STEPS):
        share = (low + high) / 2
        value = predictor.value(share)
        moved = _run(replay, budget_pages, predictor, value, profile)["moved_pages"]
        found.append((abs(moved - moved_pages), value))
        if found[-1][0] <= _NEAR_FRAC * moved_pages:
            break
        low, high = (share, high) if moved < moved_pages else (low, share)
    return min(found)[1]


def _run(replay: Replay, budget_pages: int, predictor: Predictor, knob: float | None, profile: Profile) -> Record:
    """Simulate once, and return means over the steps behind the warm-up: pages and seconds a step."""
    setting = _setting(replay, budget_pages)
    rows = simulate_decode(
        SimulationInput(
            profile=profile,
            replay=replay,
            policy=make_policy(predictor.eviction, setting, _arguments(predictor, knob)),
            policy_name="lru",
            setting=setting,
            page_bytes=profile.shape.page_bytes(PAGE_TOKENS),
            pinned_first_pages=SINK_PAGES,
            pinned_last_pages=RECENT_PAGES,
            warmup_steps=WARMUP_STEPS,
            chunk_pages=CHUNK_PAGES,
            window_transfers=WINDOW_TRANSFERS,
        )
    )
    names = ("misses", "prefetched", "used", "wasted", *_TIMES)
    means: Record = {name: float(rows[name][WARMUP_STEPS:].astype(np.float64).mean()) for name in names}
    return means | {"moved_pages": means["misses"] + means["prefetched"]}


def _accuracy(replay: Replay, predictor: Predictor) -> Record:
    """Return recall and precision of the next selection, where as many pages are foretold as are read."""
    if predictor.prefetch == "none":
        return {"selection_recall_frac": float("nan"), "selection_precision_frac": float("nan")}
    arguments = _arguments(predictor, predictor.many if predictor.knob else None)
    setting = _setting(replay, replay.grid.pages_per_layer)
    policy: Any = make_policy(predictor.eviction, setting, arguments)
    found: Accuracy = measure_accuracy(
        policy.prefetcher, replay, sink_pages=SINK_PAGES, recent_pages=RECENT_PAGES, warmup_steps=WARMUP_STEPS
    )
    return {"selection_recall_frac": found.recall_frac, "selection_precision_frac": found.precision_frac}


def _arguments(predictor: Predictor, knob: float | None) -> Record:
    return {"prefetch": predictor.prefetch, **predictor.arguments} | (
        {predictor.knob: knob} if predictor.knob is not None else {}
    )


def _setting(replay: Replay, budget_pages: int) -> Setting:
    return Setting(
        grid=replay.grid,
        capacity_pages=budget_pages * replay.grid.num_layers,
        partition="shared",
        prefetch_quota_pages=QUOTA_PAGES,
        seed=0,
    )


def _replay(capture: str, k_pages: int) -> Replay:
    file = open_trace(find_capture(capture, Path.cwd()))
    if file.num_sequences != 1:
        raise ScenarioError(f"{capture}: holds {file.num_sequences} sequences; predictors are compared on one")
    selector = TopK(k_pages=k_pages, sink_pages=SINK_PAGES, recent_pages=RECENT_PAGES)
    if file.num_steps <= WARMUP_STEPS + 1:
        raise ScenarioError(f"{capture}: has {file.num_steps} steps; the table needs more than {WARMUP_STEPS + 1}")
    replay = Replay(file, selector, channel=CHANNEL, page_tokens=PAGE_TOKENS, num_steps=file.num_steps)
    replay.speculation(0, 0)
    return replay


def with_speculation(profile: Profile) -> Profile:
    """Return the profile with a cost of foretelling the next layer's scores.

    Where it was not measured, scoring pages and all of the attention input together stand in: an upper bound, because
    the speculation projects the query alone.
    """
    if SPECULATE in profile.segments:
        return profile
    select, entry = profile.segments["select"], profile.segments["attention_input"]
    host = _sum(select.host, entry.host) if select.host and entry.host else None
    cost = SegmentCost(device=_sum(select.device, entry.device), host=host, tail_s=select.tail_s)
    return profile.model_copy(update={"segments": {**profile.segments, SPECULATE: cost}})


def _sum(scoring: CostTable, entry: CostTable) -> CostTable:
    rows = tuple(
        tuple(time_s + entry.at_s(1, batch) for time_s, batch in zip(row, scoring.batches, strict=True))
        for row in scoring.time_s
    )
    return scoring.model_copy(update={"time_s": rows})
