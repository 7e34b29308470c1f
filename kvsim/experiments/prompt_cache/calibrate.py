"""Times what a prompt cache moves: states of a prompt's tokens put back from either tier, and kept there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import torch
from transformers import DynamicCache

from kvsim.calibration.fit import Sample, fit_table
from kvsim.calibration.plan import Plan
from kvsim.calibration.timers import repeat_s
from kvsim.engine.links.states import KVStates, StateLink, keep, make_link, move, restore
from kvsim.engine.model.loading import TORCH_DTYPES
from kvsim.profile.tables import CostTable
from kvsim.scenario.shapes import ModelShape
from kvsim.types import FloatArray, Tier

_CAP_S = 0.3
_MOST_BYTES = {"cpu": 256 * 2**20, "cuda": 4 * 2**30}
"""Of one prompt: no larger one is timed."""
_HELD_BYTES = 256 * 2**20
_TAIL_PARTS = 4
"""Kept prompts are this part longer than what is put back of them: most matches end inside one."""


def restore_tables(
    shape: ModelShape,
    plan: Plan,
    *,
    device: str,
    bandwidth_bytes_per_s: float | None,
    make_advance: Callable[[str, int], Callable[[int], None]],
) -> dict[str, CostTable]:
    """Return ``restore.<tier>`` and ``store.<tier>``: seconds by tokens of one prompt, of all layers of the shape.

    Parameters
    ----------
    bandwidth_bytes_per_s
        Of the emulated link; None where there is a real one.
    make_advance
        Returns what counts the calls of a stage, from its name and their number.
    """
    tiers: tuple[Tier, ...] = get_args(Tier)
    token_bytes = shape.num_layers * shape.page_bytes(1)
    sizes = [tokens for tokens in plan.restored_tokens if tokens * token_bytes <= _MOST_BYTES[device]]
    sizes = sizes or [plan.restored_tokens[0]]
    advance = make_advance("prompts", len(tiers) * len(sizes))
    link = make_link(device, bandwidth_bytes_per_s or math.inf)
    samples: dict[str, list[Sample]] = {f"{what}.{tier}": [] for what in ("restore", "store") for tier in tiers}
    for num_tokens in sizes:
        whole = _states(shape, num_tokens + num_tokens // _TAIL_PARTS + 1, device)
        cache = restore([whole.tokens(0, num_tokens)], link)
        for tier in tiers:
            moved = move(whole, tier, link)
            for what, time_s in (
                (f"restore.{tier}", _restore_s(moved.tokens(0, num_tokens), link, device)),
                (f"store.{tier}", _store_s(cache, tier, link, device)),
            ):
                samples[what] += [(num_tokens, 1, value_s) for value_s in time_s.tolist()]
            advance(1)
    link.close()
    return {name: fit_table(rows, "tokens") for name, rows in samples.items()}


def _states(shape: ModelShape, num_tokens: int, device: str) -> KVStates:
    sizes = (shape.num_layers, 2, shape.num_kv_heads, num_tokens, shape.head_dim)
    return KVStates(tensor=torch.ones(sizes, dtype=TORCH_DTYPES[shape.dtype], device=device), tier="device")


def _restore_s(states: KVStates, link: StateLink, device: str) -> FloatArray:
    def once() -> None:
        restore([states], link)
        _wait(device)

    return repeat_s(once, cap_s=_CAP_S)


def _store_s(cache: DynamicCache, tier: Tier, link: StateLink, device: str) -> FloatArray:
    """Return the seconds of keeping a prompt, each in memory of its own: kept ones are not given back at once."""
    held: list[KVStates] = []

    def once() -> None:
        held.append(keep(cache, tier=tier, link=link))
        _wait(device)

    once()
    return repeat_s(once, cap_s=_CAP_S, warmups=0, max_repeats=max(4, _HELD_BYTES // held[0].nbytes))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
