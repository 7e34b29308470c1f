"""Every policy with selector `full` against transformers' own cache: the same greedy tokens, the same logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from gpu_parts.jobs import Outcome, Setting, write_json
from gpu_parts.profiles import TINY
from gpu_parts.workload import paged_input
from kvsim.calibration.random_inputs import random_model
from kvsim.engine.model.forward import CACHE_ARGUMENT
from kvsim.engine.model.held import held_by
from kvsim.engine.model.loading import load_model
from kvsim.engine.model.text import read_text
from kvsim.engine.paged.baselines import fill
from kvsim.engine.paged.decode import decode, undisturbed
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.engine.paged.prefill import Snapshot, prefill
from kvsim.errors import KvsimError
from kvsim.policies import POLICIES
from kvsim.scenario.shapes import DType
from kvsim.types import PageGrid

TOLERANCE_FRAC: dict[str, float] = {"fp32": 1e-4, "bf16": 3e-2}
"""How far a logit may lie off, of the largest in absolute value: another kernel adds in another order."""

BUDGETS_FRAC = (0.75, 0.25)


def check_exactness(dtype: DType) -> Callable[[Setting], Outcome]:
    """Return what holds every policy against the default cache in one dtype."""

    def run(setting: Setting) -> Outcome:
        model, ids, num_steps = _model(setting, dtype)
        snapshot = prefill(model, ids, room_tokens=num_steps)
        expected, tokens = _by_default_cache(model, snapshot, num_steps)
        fed = torch.cat((snapshot.next_token, tokens[:, :-1]), dim=1)
        rows = [
            _row(model, snapshot, policy, budget_frac, fed, expected, TOLERANCE_FRAC[dtype])
            for policy, entry in POLICIES.items()
            if entry.kind != "dropping" and not entry.is_oracle
            for budget_frac in (BUDGETS_FRAC if policy != "resident" else (1.0,))
        ]
        held = [row for row in rows if "left_out" not in row]
        exact = [row for row in held if row["is_exact"]]
        found = {
            "dtype": dtype,
            "model": "trained" if setting.model is not None and not setting.is_small else "random",
            "prompt_tokens": snapshot.prompt_tokens,
            "num_steps": num_steps,
            "tolerance_frac": TOLERANCE_FRAC[dtype],
            "rows": rows,
        }
        path = write_json(setting.folder("engine") / f"exactness-{dtype}.json", found)
        worst_frac = max(row["worst_logit_frac"] for row in held)
        verdict = "met" if len(exact) == len(held) else "MISSED"
        identical = sum(row["same_tokens"] for row in held)
        headline = (
            f"{verdict}: {len(exact)} of {len(held)} runs exact, {identical} token-identical, "
            f"worst logit off by {worst_frac:.1e} of the largest"
        )
        return Outcome(headline=headline, files=[path])

    return run


def _model(setting: Setting, dtype: DType) -> tuple[Any, torch.Tensor, int]:
    """Return a model, the prompt, ``[1, tokens]``, and the steps to decode."""
    if setting.is_small or setting.model is None:
        model = random_model(TINY.model_copy(update={"dtype": dtype}), TINY.num_layers, setting.device)
        return model, torch.randint(0, TINY.vocab_size, (1, 200), generator=torch.Generator().manual_seed(0)), 6
    model, tokenizer = load_model(setting.model, dtype, setting.device)
    text = tokenizer(read_text("python-docs")[:20_000], add_special_tokens=False, verbose=False)["input_ids"]
    return model, torch.tensor([text[:1000]]), 16


@torch.inference_mode()
def _by_default_cache(model: Any, snapshot: Snapshot, num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits, ``[num_steps, vocab_size]`` on the host in fp32, and greedy tokens, ``[1, num_steps]``."""
    cache = DynamicCache(config=model.config)
    fill(cache, snapshot, held_by(model.config), model.device)
    fed, logits, tokens = snapshot.next_token, [], []
    with undisturbed():
        for _ in range(num_steps):
            found = model(fed.to(model.device), **{CACHE_ARGUMENT: cache}, use_cache=True).logits[:, -1]
            fed = found.argmax(dim=-1, keepdim=True).cpu()
            logits.append(found[0].float().cpu())
            tokens.append(fed)
    return torch.stack(logits), torch.cat(tokens, dim=1)


def _row(
    model: Any,
    snapshot: Snapshot,
    policy: str,
    budget_frac: float,
    fed: torch.Tensor,
    expected: torch.Tensor,
    tolerance_frac: float,
) -> dict[str, Any]:
    """Return how far one policy's logits lie off; where a token differs, the two must be a tie within the tolerance."""
    row: dict[str, Any] = {"policy": policy, "budget_frac": budget_frac}
    try:
        given = _given(snapshot, policy, budget_frac, fed.shape[1])
        result = decode(
            model, snapshot, given, bandwidth_bytes_per_s=_bandwidth(model), forced_tokens=fed, keeps_logits=True
        )
    except KvsimError as problem:
        return row | {"left_out": str(problem)}
    assert result.logits is not None
    logits = result.logits[0]
    largest = float(expected.abs().max())
    chosen, likeliest = logits.argmax(-1), expected.argmax(-1)
    steps = torch.arange(len(expected))
    gap = float((expected[steps, likeliest] - expected[steps, chosen]).max())
    worst = float((logits - expected).abs().max())
    counts = {name: int(result.counts[name].sum()) for name in ("hits", "misses", "prefetched")}
    is_close = bool(np.isfinite(worst)) and max(worst, gap) <= tolerance_frac * largest
    return (
        row
        | counts
        | {
            "same_tokens": bool((chosen == likeliest).all()),
            "worst_gap_frac": gap / largest,
            "worst_logit_frac": worst / largest,
            "is_exact": is_close,
        }
    )


def _given(snapshot: Snapshot, policy: str, budget_frac: float, num_steps: int) -> DecodeInput:
    def budget_pages(grid: PageGrid) -> int:
        least = 2 * grid.pages_per_layer * grid.num_sequences + grid.num_layers * grid.num_sequences
        return max(int(budget_frac * grid.num_pages), least)

    return paged_input(snapshot, policy, num_steps, budget_pages=budget_pages, quota_pages=4, window_transfers=2)


def _bandwidth(model: Any) -> float | None:
    """Return what an emulated link is held to here; a GPU's is left as it is."""
    return 5e9 if model.device.type == "cpu" else None
