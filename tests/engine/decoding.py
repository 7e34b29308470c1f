"""Small decode runs of the tiny model, for the tests of the engine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from kvsim.engine import PagedCache
from kvsim.engine.capture.decode_trace import DecodeRecorder, trace_writer
from kvsim.engine.model.families import shape_of, weightings_of
from kvsim.engine.model.forward import CACHE_ARGUMENT
from kvsim.engine.paged.decode import DecodeResult, decode
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.engine.paged.prefill import Snapshot, prefill
from kvsim.policies import Policy, Setting, find_policy, make_policy
from kvsim.policies.selectors import Selector
from kvsim.sim import Replay, SimulationInput, simulate_decode
from kvsim.traces import TraceFile, open_trace
from kvsim.types import PageGrid, Partition, pages_of
from tests.accesses import make_profile

PAGE_TOKENS = 16
FAST_BYTES_PER_S = 2e9
FULL = 'selector.name="full"'


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


def record(
    model: Any, snapshot: Snapshot, given: DecodeInput, path: Path, **options: Any
) -> tuple[TraceFile, DecodeResult]:
    """Decode, write down what was read, and return the record and the result."""
    with trace_writer(path, given, snapshot, shape_of(model), model="tiny", text="", recorded="greedy") as writer:
        observer = partial(DecodeRecorder, writer, given, weightings=weightings_of(model))
        result = run(model, snapshot, given, observer=observer, **options)
    return open_trace(path), result


def simulate(replay: Replay, given: DecodeInput, policy: Policy) -> dict[str, Any]:
    """Return the counts of a simulated run of the same setting under a policy of its own."""
    return simulate_decode(
        SimulationInput(
            profile=make_profile(),
            replay=replay,
            policy=policy,
            policy_name="lru",  # counts do not depend on its cost
            setting=given.setting,
            page_bytes=2 * 2 * 16 * 4 * PAGE_TOKENS,
            pinned_first_pages=given.pinned_first_pages,
            pinned_last_pages=given.pinned_last_pages,
            warmup_steps=0,
            chunk_pages=given.chunk_pages,
            window_transfers=given.window_transfers,
        )
    )


def cache_of(model: Any, *overrides: str, pages: int, batch: int = 1, **options: Any) -> PagedCache:
    """Return a cache of so many pages per layer on an emulated link, with the options of `PagedCache`."""
    options.setdefault("bandwidth_bytes_per_s", FAST_BYTES_PER_S)
    overrides = (f"page_tokens={PAGE_TOKENS}", f"budget.pages_per_layer={pages}", *overrides)
    return PagedCache.from_scenario("crosscheck_quick", model, batch=batch, overrides=overrides, **options)


def generate(model: Any, ids: torch.Tensor, cache: PagedCache | DynamicCache | None = None, **options: Any) -> Any:
    """Return what `model.generate` gives, greedy unless told otherwise, and whatever its last token."""
    options = {"do_sample": False, "eos_token_id": None} | options
    return model.generate(ids, **{CACHE_ARGUMENT: cache}, **options)


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
