"""A model of random weights over random contexts, ready to decode: what the timed runs of the 8B shape share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from gpu_parts.jobs import Setting
from gpu_parts.profiles import TINY, shape_path
from kvsim.calibration.random_inputs import random_model, random_tokens
from kvsim.engine.links.cuda import Mechanism, mechanism_named
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.engine.paged.prefill import Snapshot
from kvsim.policies import Setting as PolicySetting
from kvsim.policies import find_policy, make_policy
from kvsim.policies.selectors import TopK
from kvsim.profile.profile import load_profile
from kvsim.scenario.shapes import SHAPES, ModelShape
from kvsim.types import PageGrid, pages_of

SHAPE = "llama-3-8b"
PAGE_TOKENS = 32
SINK_PAGES, RECENT_PAGES = 1, 2
MOST_PAGES_READ = 64
ROOM_TOKENS = 128
"""Contexts take a multiple of it, the steps included: a power of two, as pinned memory is handed out."""

EMULATED_BYTES_PER_S = 2e9
"""Of the link without a GPU, where the command itself is tried."""


def shape_of(setting: Setting) -> ModelShape:
    """Return the shape that is timed."""
    return TINY if setting.is_small else SHAPES[SHAPE]


@cache
def model_of(setting: Setting) -> Any:
    """Return the model, made once a process."""
    shape = shape_of(setting)
    return random_model(shape, shape.num_layers, setting.device)


@cache
def memory_of(setting: Setting, num_tokens: int) -> torch.Tensor:
    """Return random keys and values of so many tokens of every layer, pinned where there is a GPU."""
    shape = shape_of(setting)
    return random_tokens(shape, shape.num_layers, num_tokens, device=setting.device)


def snapshot_of(setting: Setting, context_tokens: int, batch: int, num_steps: int, most_tokens: int) -> Snapshot:
    """Return contexts that have `context_tokens` each when `num_steps` are decoded.

    All are cut from memory for `most_tokens`, because pinned memory is slow to get and not given back.
    """
    shape = shape_of(setting)
    room = -(-context_tokens // ROOM_TOKENS) * ROOM_TOKENS
    tokens = memory_of(setting, max(most_tokens, room * batch))
    shaped = tokens[: batch * shape.num_layers * room].view(batch, shape.num_layers, room, *tokens.shape[1:])
    return Snapshot(
        tokens=shaped, prompt_tokens=context_tokens - num_steps, next_token=torch.zeros((batch, 1), dtype=torch.int64)
    )


def fed_tokens(batch: int, num_steps: int) -> torch.Tensor:
    """Return what is fed: one token again and again, ``[batch, num_steps]``.

    Over random keys the query of a token chooses nine tenths of the pages that it chose a step before, much as trained
    models do; another token at each step would choose anew.
    """
    return torch.full((batch, num_steps), 17)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One way to decode."""

    policy: str
    budget_frac: float | None
    """Share of the pages on the device; None where all are."""
    k_pages: int | None
    """Pages read by score; None: every page is read."""

    @property
    def label(self) -> str:
        """What the table calls it."""
        reads = "all" if self.k_pages is None else f"{self.k_pages + SINK_PAGES + RECENT_PAGES + 1} pages"
        budget = "" if self.budget_frac is None else f" {self.budget_frac:g}"
        return f"{self.policy}{budget} ({reads})"


def k_for(context_tokens: int, budget_frac: float) -> int:
    """Return how many pages are read by score: `MOST_PAGES_READ`, or what six tenths of a layer's budget leave."""
    budget = int(budget_frac * pages_of(context_tokens, PAGE_TOKENS))
    return max(2, min(MOST_PAGES_READ, int(0.6 * budget) - SINK_PAGES - RECENT_PAGES - 1))


def input_for(snapshot: Snapshot, choice: Choice, num_steps: int) -> DecodeInput:
    """Return the input of a run of `choice`."""
    selector = None
    if choice.k_pages is not None:
        selector = TopK(k_pages=choice.k_pages, sink_pages=SINK_PAGES, recent_pages=RECENT_PAGES)
    budget_frac = 1.0 if choice.budget_frac is None else choice.budget_frac
    return paged_input(
        snapshot,
        choice.policy,
        num_steps,
        budget_pages=lambda grid: int(budget_frac * grid.num_pages),
        quota_pages=8,
        window_transfers=4,
        selector=selector,
        pinned_pages=(SINK_PAGES, RECENT_PAGES),
    )


def paged_input(
    snapshot: Snapshot,
    policy: str,
    num_steps: int,
    *,
    budget_pages: Callable[[PageGrid], int],
    quota_pages: int,
    window_transfers: int,
    selector: TopK | None = None,
    pinned_pages: tuple[int, int] = (0, 0),
) -> DecodeInput:
    """Return the input of a run of a policy in pages of `PAGE_TOKENS`, with the first and last that never leave."""
    grid = PageGrid(
        num_sequences=snapshot.num_sequences,
        num_layers=snapshot.num_layers,
        pages_per_layer=pages_of(snapshot.prompt_tokens + num_steps, PAGE_TOKENS),
    )
    setting = PolicySetting(
        grid=grid,
        capacity_pages=grid.num_pages if find_policy(policy).holds == "everything" else budget_pages(grid),
        partition="shared",
        prefetch_quota_pages=quota_pages,
        seed=0,
    )
    return DecodeInput(
        selector=selector,
        channel="estimate:quest",
        policy=make_policy(policy, setting, {}),
        setting=setting,
        page_tokens=PAGE_TOKENS,
        pinned_first_pages=pinned_pages[0],
        pinned_last_pages=pinned_pages[1],
        num_steps=num_steps,
        warmup_steps=0,
        chunk_pages=quota_pages,
        window_transfers=window_transfers,
    )


def budgets_of(setting: Setting) -> tuple[float, float]:
    """Return the shares of all pages that the device may hold: a quarter and a twentieth."""
    return (0.75, 0.5) if setting.is_small else (0.25, 0.05)


def bandwidth_of(setting: Setting) -> float | None:
    """Return what the link is held to: nothing on a GPU."""
    return EMULATED_BYTES_PER_S if setting.device == "cpu" else None


def mechanism_of(setting: Setting) -> Mechanism:
    """Return how the shape's profile says that pages are copied; one by one where there is no profile."""
    path = shape_path(setting, SHAPE)
    return mechanism_named(load_profile(path).link.to_device.mechanism) if path.is_file() else "memcpy"
