"""Time per output token of policies and of transformers' caches, at one context and batch of the 8B shape."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from gpu_parts.jobs import Outcome, Setting, write_json, write_text
from gpu_parts.workload import (
    SHAPE,
    Choice,
    bandwidth_of,
    budgets_of,
    fed_tokens,
    input_for,
    k_for,
    mechanism_of,
    model_of,
    shape_of,
    snapshot_of,
)
from kvsim.engine.paged.baselines import decode_on, offloaded_cache
from kvsim.engine.paged.decode import DecodeResult, decode
from kvsim.engine.paged.prefill import Snapshot
from kvsim.errors import KvsimError

STEPS, WARMUP_STEPS = 12, 4
PEER_STEPS, PEER_WARMUP_STEPS = 8, 3
MOST_TOKENS = 8 * 32_768
"""Of the largest job: 32 GiB of keys and values of the 8B shape."""

HOST = ("sync", "choose", "decide", "submit")


def time_steps(context_tokens: int, batch: int) -> Callable[[Setting], Outcome]:
    """Return what times every choice at one context and batch, a row at a time: a broken run goes on where it was."""

    def run(setting: Setting) -> Outcome:
        path = setting.folder("engine") / f"times-{context_tokens}x{batch}.json"
        found = _begun(path, setting) or {
            "key": setting.key,
            "shape": SHAPE if not setting.is_small else "tiny",
            "context_tokens": context_tokens,
            "batch": batch,
            "mechanism": mechanism_of(setting),
            "fed": "the same token at every step",
            "rows": [],
        }
        had = {row["label"] for row in found["rows"]}
        most_tokens = 0 if setting.is_small else MOST_TOKENS
        snapshot = snapshot_of(setting, context_tokens, batch, STEPS, most_tokens)
        for label, timed in _choices(setting, snapshot, context_tokens):
            if label not in had:
                print(f"  {label}", flush=True)
                found["rows"].append({"label": label} | _attempt(timed))
                write_json(path, found)
                gc.collect()
        text = path.with_suffix(".txt")
        write_text(text, table(found))
        return Outcome(headline=_headline(found["rows"]), files=[path, text])

    return run


def _begun(path: Path, setting: Setting) -> dict[str, Any] | None:
    """Return what an earlier try of the same code on the same machine has found."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if found.get("key") == setting.key else None


def _choices(
    setting: Setting, snapshot: Snapshot, context_tokens: int
) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """Return what is timed by its label, what matters most first."""
    reads = [(budget_frac, k_for(context_tokens, budget_frac)) for budget_frac in budgets_of(setting)]
    chosen = [Choice(policy="resident", budget_frac=None, k_pages=None)]
    for budget_frac, k_pages in reads:
        chosen.append(Choice(policy="resident", budget_frac=None, k_pages=k_pages))
        chosen += [Choice(policy=name, budget_frac=budget_frac, k_pages=k_pages) for name in ("attention", "lru")]
    chosen += [Choice(policy="stream", budget_frac=budget_frac, k_pages=None) for budget_frac in budgets_of(setting)]
    found: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    for choice in dict.fromkeys(chosen):
        found.append((choice.label, lambda choice=choice: _paged(setting, snapshot, choice)))  # type: ignore[misc]
    found.insert(1, ("transformers' default cache", lambda: _peer(setting, snapshot, _default_cache)))
    if setting.device == "cuda":
        found.insert(4, ("hf-offloaded", lambda: _peer(setting, snapshot, offloaded_cache)))
    return found


def _attempt(timed: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return timed()
    except (KvsimError, torch.OutOfMemoryError) as problem:
        return {"left_out": str(problem).splitlines()[0]}


def _paged(setting: Setting, snapshot: Snapshot, choice: Choice) -> dict[str, Any]:
    """Return a row: times of a plain run, parts of a stamped one."""

    def once(num_steps: int, *, is_stamped: bool) -> DecodeResult:
        return decode(
            model_of(setting),
            snapshot,
            input_for(snapshot, choice, num_steps),
            bandwidth_bytes_per_s=bandwidth_of(setting),
            forced_tokens=fed_tokens(snapshot.num_sequences, num_steps),
            is_stamped=is_stamped,
            mechanism=mechanism_of(setting),
        )

    plain = once(STEPS, is_stamped=False)
    stamped = once(STEPS, is_stamped=True)
    counts = {name: float(column[WARMUP_STEPS:].mean()) for name, column in plain.counts.items() if name != "digest"}
    return {
        "policy": choice.policy,
        "budget_frac": choice.budget_frac,
        "k_pages": choice.k_pages,
        **_times(plain.step_s[WARMUP_STEPS:]),
        "instrument_overhead_frac": float(
            stamped.step_s[WARMUP_STEPS:].mean() / plain.step_s[WARMUP_STEPS:].mean() - 1
        ),
        "counts_per_step": counts,
        "hit_frac": counts["hits"] / counts["selected"] if counts["selected"] else None,
        "parts_s": _parts_s(stamped, num_layers=shape_of(setting).num_layers),
    }


def _peer(setting: Setting, snapshot: Snapshot, make_cache: Callable[[Any], Any]) -> dict[str, Any]:
    result = decode_on(
        make_cache,
        model_of(setting),
        snapshot,
        fed_tokens(snapshot.num_sequences, PEER_STEPS),
        page_tokens=32,
        counts_copies=False,
    )
    return {"policy": make_cache.__name__.strip("_"), "budget_frac": None, "k_pages": None} | _times(
        result.step_s[PEER_WARMUP_STEPS:]
    )


def _default_cache(model: Any) -> DynamicCache:
    return DynamicCache(config=model.config)


def _times(step_s: Any) -> dict[str, Any]:
    low_s, middle_s, high_s = np.quantile(step_s, (0.2, 0.5, 0.8))
    return {
        "tpot_s": float(np.mean(step_s)),
        "p20_s": float(low_s),
        "p50_s": float(middle_s),
        "p80_s": float(high_s),
        "step_s": [float(each) for each in step_s],
    }


def _parts_s(result: DecodeResult, *, num_layers: int) -> dict[str, float]:
    """Return the seconds of each part in a step, all layers together; on a GPU the device's."""
    assert result.parts_s is not None
    parts = {}
    for name, part in result.parts_s.items():
        by_step = part[WARMUP_STEPS:]
        parts[name] = float(by_step.mean()) * (num_layers if by_step.ndim > 1 else 1)
    return parts


def host_and_selection_frac(row: dict[str, Any]) -> float:
    """Return the share of a step's parts that selection takes, and waiting for host and policy."""
    parts = row["parts_s"]
    return float(sum(parts[name] for name in (*HOST, "select", "speculate")) / sum(parts.values()))


def table(found: dict[str, Any]) -> str:
    """Return the rows as text."""
    lines = [
        f"{found['shape']}, {found['context_tokens']} tokens x {found['batch']}, copies {found['mechanism']}",
        f"{'':<32}{'ms a token':>12}{'p20':>9}{'p80':>9}{'hits':>7}{'stall':>7}{'select+host':>13}",
    ]
    for row in found["rows"]:
        if "left_out" in row:
            lines.append(f"{row['label']:<32}  left out: {row['left_out']}")
            continue
        tail = ""
        if "parts_s" in row:
            stall = row["parts_s"]["stall"] / sum(row["parts_s"].values())
            tail = f"{row['hit_frac'] or 0:>7.0%}{stall:>7.0%}{host_and_selection_frac(row):>13.0%}"
        times = f"{1e3 * row['tpot_s']:>12.2f}{1e3 * row['p20_s']:>9.2f}{1e3 * row['p80_s']:>9.2f}"
        lines.append(f"{row['label']:<32}{times}{tail}")
    return "\n".join(lines)


def _headline(rows: list[dict[str, Any]]) -> str:
    told = [f"{row['label']} {1e3 * row['tpot_s']:.1f}" for row in rows if "tpot_s" in row]
    return f"ms a token: {', '.join(told[:6])}{', ...' if len(told) > 6 else ''}"
