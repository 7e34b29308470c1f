"""A made-up run that is true to the schema: its cells are figured by the same code as a simulated run's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kvsim.experiments.decode.report.summary import cell_figures
from kvsim.experiments.decode.report.verdict import verdict
from kvsim.scenario.shapes import SHAPES

SHAPE = SHAPES["llama-3-8b"]
PAGE_TOKENS = 32
STEPS, WARMUP = 72, 8
DEVICE_MEMORY_BYTES = 24 * 2**30
PARTS = {"embed": 3e-6, "attention_input": 8e-4, "attention_output": 3.6e-3, "head": 2.7e-4}
CONTEXT_KEY, BUDGET_KEY = "trace.extrapolate.context_tokens", "budget.context_frac"


def made_up_rows(policy: str, context_tokens: int, budget_frac: float, *, seed: int) -> dict[str, Any]:
    """Return the rows of one cell: waits and counts drawn at random around what each policy would do."""
    generator = np.random.default_rng(seed)
    layers = SHAPE.num_layers
    pages = context_tokens // PAGE_TOKENS
    selected = pages if policy == "stream" else 40
    miss_frac = {"resident": 0.0, "stream": 1 - budget_frac, "lru": 0.3, "attention": 0.15}.get(policy, 0.3)
    if policy in ("lru", "attention"):
        miss_frac *= 1 - 0.8 * budget_frac
    misses = generator.binomial(selected * layers, miss_frac, STEPS)
    prefetched = generator.binomial(60, 0.8, STEPS) if policy == "attention" else np.zeros(STEPS, dtype=int)
    used = (prefetched * 0.7).astype(int)
    page_bytes = SHAPE.page_bytes(PAGE_TOKENS)
    rows = {
        "step": np.arange(STEPS),
        "context_tokens": context_tokens + np.arange(STEPS),
        "is_warmup": np.arange(STEPS) < WARMUP,
        "repetition": np.zeros(STEPS, dtype=np.int64),
        **{f"{name}_s": np.full(STEPS, part_s) for name, part_s in PARTS.items()},
        "select_s": np.full(STEPS, 0.0 if policy == "stream" else layers * (13e-6 + pages * 1.07e-9)),
        "attention_s": np.full(STEPS, layers * (12e-6 + selected * PAGE_TOKENS * 1.1e-9)),
        "stall_s": misses * page_bytes / 45e9 * generator.uniform(0.8, 1.2, STEPS),
        "host_s": np.full(STEPS, 0.0 if policy in ("resident", "stream") else layers * 45e-6),
    }
    rows["step_s"] = sum(rows[name] for name in rows if name.endswith("_s"))
    rows |= {"decide_s": rows["host_s"] * 0.6, "sync_s": rows["host_s"] * 0.4, "submit_s": rows["host_s"] * 0.1}
    rows |= {"selected": np.full(STEPS, selected * layers), "misses": misses, "hits": selected * layers - misses}
    rows |= {"late": used // 10, "prefetched": prefetched, "used": used, "wasted": prefetched - used}
    rows |= {"evicted": misses, "to_device_bytes": (misses + prefetched) * page_bytes}
    rows |= {"to_host_bytes": np.zeros(STEPS, dtype=int), "digest": generator.integers(0, 2**32, STEPS)}
    rows["mass_recall_frac"] = np.full(STEPS, 1.0 if policy == "stream" else 0.93)
    return rows


def made_up_run(
    contexts: tuple[int, ...] = (32_768, 65_536, 131_072),
    budgets: tuple[float, ...] = (0.1, 0.25, 0.5),
    policies: tuple[str, ...] = ("resident", "stream", "lru", "attention"),
    profile_kind: str = "published",
    emulated_link: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a summary as in ``summary.json`` and the columns of its rows."""
    cells, tables = [], []
    for context in contexts:
        for budget in budgets:
            for policy in policies:
                rows = made_up_rows(policy, context, budget, seed=len(cells))
                rows |= {"cell": np.full(STEPS, len(cells)), "policy": np.array([policy] * STEPS, dtype=object)}
                cells.append(_cell(policy, context, budget, rows))
                tables.append(rows)
    for cell in cells:
        base = [
            other["tpot_p50_s"]
            for other in cells
            if other["policy"] == "resident" and other[CONTEXT_KEY] == cell[CONTEXT_KEY]
        ]
        cell["speed_vs_resident"] = base[0] / cell["tpot_p50_s"] if base else None
    summary = {
        "schema_version": 1,
        "scenario": "long_context",
        "scenario_hash": "0123456789abcdef",
        "question": "",
        "profile": {"name": "h200-llama-3-8b-published", "kind": profile_kind, "emulated_link": emulated_link},
        "device_memory_bytes": DEVICE_MEMORY_BYTES,
        "swept": [CONTEXT_KEY, BUDGET_KEY],
        "cells": cells,
    }
    summary["verdict"] = verdict(cells, DEVICE_MEMORY_BYTES, profile_kind=profile_kind, emulated_link=emulated_link)
    return summary, {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _cell(policy: str, context: int, budget: float, rows: dict[str, Any]) -> dict[str, Any]:
    is_resident = policy == "resident"
    total_pages = context // PAGE_TOKENS * SHAPE.num_layers
    on_device = total_pages if is_resident else int(total_pages * budget)
    sizes = {
        "kv_device_bytes": on_device * SHAPE.page_bytes(PAGE_TOKENS),
        "weights_bytes": SHAPE.weights_bytes,
        "activation_bytes": SHAPE.activation_bytes(512, 1),
        "summary_bytes": 0 if policy == "stream" else SHAPE.summary_bytes(total_pages),
    }
    device_bytes = sum(sizes.values())
    return (
        {"policy": policy, "budget_pages": None if is_resident else on_device, CONTEXT_KEY: context, BUDGET_KEY: budget}
        | {"context_tokens": int(rows["context_tokens"].max()), "batch": 1, "page_tokens": PAGE_TOKENS}
        | {"selector": "full" if policy == "stream" else "top-k by estimate:quest"}
        | cell_figures(rows, batch=1, holds_everything=is_resident)
        | {"device_bytes": device_bytes, "fits": device_bytes <= DEVICE_MEMORY_BYTES, **sizes}
        | {"host_bytes": 0 if is_resident else total_pages * SHAPE.page_bytes(PAGE_TOKENS)}
    )


@pytest.fixture(scope="session")
def run():
    """A summary and rows of 3 contexts x 3 budgets x 4 policies."""
    return made_up_run()


@pytest.fixture(scope="session")
def make_run():
    """The function that makes other summaries and rows."""
    return made_up_run
