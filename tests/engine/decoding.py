"""Small decode runs of the tiny model, for the tests of the engine."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from kvsim.engine.model.forward import CACHE_ARGUMENT
from kvsim.engine.paged.decode import DecodeResult, decode
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.engine.paged.prefill import Snapshot, prefill
from kvsim.policies import Setting, find_policy, make_policy
from kvsim.policies.selectors import Selector
from kvsim.types import PageGrid, Partition, pages_of

PAGE_TOKENS = 16
FAST_BYTES_PER_S = 2e9


def snapshot_of(model: Any, *, prompt_tokens: int, num_steps: int, num_sequences: int = 1, seed: int = 0) -> Snapshot:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, model.config.vocab_size, (num_sequences, prompt_tokens), generator=generator)
    return prefill(model, ids, room_tokens=num_steps, chunk_tokens=64)


def input_for(
    snapshot: Snapshot,
    policy: str,
    *,
    num_steps: int,
    pages_per_layer: int,
    selector: Selector | None = None,
    channel: str = "estimate:quest",
    partition: Partition = "shared",
    pinned: tuple[int, int] = (0, 0),
    quota: int = 4,
) -> DecodeInput:
    grid = PageGrid(
        num_sequences=snapshot.num_sequences,
        num_layers=snapshot.num_layers,
        pages_per_layer=pages_of(snapshot.prompt_tokens + num_steps, PAGE_TOKENS),
    )
    budget = pages_per_layer * grid.num_layers * grid.num_sequences
    setting = Setting(
        grid=grid,
        capacity_pages=grid.num_pages if find_policy(policy).holds == "everything" else budget,
        partition=partition,
        prefetch_quota_pages=quota,
        seed=0,
    )
    return DecodeInput(
        selector=selector,
        channel=channel,
        policy=make_policy(policy, setting, {}),
        setting=setting,
        page_tokens=PAGE_TOKENS,
        pinned_first_pages=pinned[0],
        pinned_last_pages=pinned[1],
        num_steps=num_steps,
        warmup_steps=0,
        chunk_pages=2,
        window_transfers=2,
    )


def run(model: Any, snapshot: Snapshot, given: DecodeInput, **options: Any) -> DecodeResult:
    options.setdefault("bandwidth_bytes_per_s", FAST_BYTES_PER_S)
    return decode(model, snapshot, given, keeps_logits=True, **options)


def default_cache_logits(model: Any, ids: torch.Tensor, num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and greedy tokens of transformers' own cache, ``[num_sequences, num_steps, ...]``."""
    cache = DynamicCache(config=model.config)
    logits_kept, tokens = [], []
    with torch.inference_mode():
        logits = model(ids, **{CACHE_ARGUMENT: cache}).logits[:, -1]
        for _ in range(num_steps):
            fed = logits.argmax(dim=-1, keepdim=True)
            logits = model(fed, **{CACHE_ARGUMENT: cache}).logits[:, -1]
            logits_kept.append(logits)
            tokens.append(logits.argmax(dim=-1, keepdim=True))
    return torch.stack(logits_kept, dim=1), torch.cat(tokens, dim=1)
