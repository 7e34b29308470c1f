"""Small access sources and profiles that several rooms' tests drive policies and the simulator with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from kvsim.policies.base import Policy, Setting
from kvsim.policies.selectors import TopK
from kvsim.profile.profile import SEGMENTS, SPECULATE, Link, LinkCost, Machine, Profile, SegmentCost
from kvsim.profile.tables import CostTable
from kvsim.scenario.shapes import ModelShape
from kvsim.sim import Replay, SimulationInput
from kvsim.types import IntArray, PageIds, Rows, Scores, pages_of

PAGE_TOKENS = 16
PAGE_BYTES = 1_000_000

SHAPE = ModelShape(
    num_layers=3,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    vocab_size=100,
    tied_embeddings=True,
    dtype="fp32",
)


@dataclass
class DriftingSource:
    """Page scores that drift from step to step: log-normal attraction with AR(1) change, seeded."""

    num_steps: int = 20
    num_layers: int = 3
    num_sequences: int = 1
    start_tokens: int = 400
    seed: int = 0
    channels: tuple[str, ...] = ("mass",)
    _steps: list[Scores] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        pages = pages_of(self.start_tokens + self.num_steps, PAGE_TOKENS)
        shape = (self.num_layers, self.num_sequences, pages)
        base, drift = rng.normal(size=shape), rng.normal(size=shape)
        for _ in range(self.num_steps):
            drift = 0.8 * drift + 0.6 * rng.normal(size=shape)
            self._steps.append(np.exp(base + drift))

    def context_tokens(self, step: int) -> IntArray:
        return np.full(self.num_sequences, self.start_tokens + 1 + step, dtype=np.int64)

    def scores(self, step: int, layer: int, channel: str, page_tokens: int) -> Scores:
        raw = self._steps[step][layer][:, : pages_of(self.start_tokens + 1 + step, page_tokens)]
        return (raw / raw.sum(axis=1, keepdims=True)).astype(np.float16)

    def mass(self, step: int, layer: int, page_tokens: int) -> Scores:
        return self.scores(step, layer, "mass", page_tokens)

    def selection(self, step: int, layer: int, page_tokens: int) -> None:
        return None


class OwnPolicy:
    """What a policy of a test has besides `decide`: it attends to the selection, and keeps no books."""

    attends: ClassVar[Literal["selection", "everything"]] = "selection"
    holds: ClassVar[Literal["budget", "everything"]] = "budget"
    reads_selection: ClassVar[bool] = True

    def start(self, resident: PageIds) -> None:
        pass

    def page_opened(self, page: int) -> None:
        pass


def assert_same(first: Rows, second: Rows) -> None:
    """Assert that two runs have the same rows, to the last digit."""
    assert list(first) == list(second)
    for name in first:
        assert first[name].dtype == second[name].dtype, name
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def constant(time_s: float) -> CostTable:
    return CostTable(amount="none", amounts=(1.0,), time_s=((time_s,),))


def make_profile(
    *,
    bandwidth_bytes_per_s: float = 5e9,
    synchronous: bool = True,
    issue: str = "worker",
    own_s: float = 2e-5,
    sync_s: float = 1e-5,
    submit_s: float = 1e-6,
    host_s: float = 0.0,
    write_back: bool = True,
    compute_slowdown_frac: float = 0.0,
    both_ways_slowdown_frac: float = 0.0,
) -> Profile:
    """Return a profile in which each segment takes 100 us, attention 2 us a token more."""
    per_page_s = PAGE_BYTES / bandwidth_bytes_per_s
    transfer = CostTable(
        amount="pieces",
        amounts=(1.0, 101.0),
        columns_are="piece_bytes",
        columns=(1.0, 2.0 * PAGE_BYTES),  # whatever the size of a page
        time_s=((1e-5 + per_page_s,) * 2, (1e-5 + 101 * per_page_s,) * 2),
    )
    back = transfer if write_back else constant(0.0)
    segments = {}
    for name in (*SEGMENTS, SPECULATE):
        device = constant(1e-4)
        if name == "attention":
            device = CostTable(amount="tokens", amounts=(0.0, 1000.0), time_s=((1e-4,), (2.1e-3,)))
        segments[name] = SegmentCost(device=device, host=constant(host_s) if host_s else None)
    return Profile(
        schema_version=2,
        name="test",
        kind="exact",
        device="cpu" if synchronous else "cuda",
        synchronous=synchronous,
        runtime="eager",
        device_memory_bytes=10**9,
        page_tokens=(PAGE_TOKENS,),
        shape=SHAPE,
        machine=Machine(
            host="", processor="", device="", num_threads=1, os="", python="", versions={}, date="", command=""
        ),
        segments=segments,
        sync_s=sync_s,
        policies={"*": constant(own_s)},
        link=Link.model_validate(
            {
                "emulated": False,
                "issue": issue,
                "to_device": LinkCost(transfer=transfer, submit_s=submit_s, mechanism="test"),
                "to_host": LinkCost(transfer=back, submit_s=submit_s if write_back else 0.0, mechanism="test"),
                "compute_slowdown_frac": compute_slowdown_frac,
                "both_ways_slowdown_frac": both_ways_slowdown_frac,
            }
        ),
    )


def make_replay(source: DriftingSource, k_pages: int = 4, *, full: bool = False) -> Replay:
    selector = None if full else TopK(k_pages=k_pages, sink_pages=1, recent_pages=1)
    return Replay(source, selector, channel="mass", page_tokens=PAGE_TOKENS, num_steps=source.num_steps)


def make_setting(replay: Replay, capacity_pages: int | None = None, *, quota: int = 4, seed: int = 0) -> Setting:
    return Setting(
        grid=replay.grid,
        capacity_pages=replay.grid.num_pages if capacity_pages is None else capacity_pages,
        partition="shared",
        prefetch_quota_pages=quota,
        seed=seed,
    )


def make_input(
    replay: Replay, policy: Policy, setting: Setting, profile: Profile, *, warmup_steps: int = 0
) -> SimulationInput:
    return SimulationInput(
        profile=profile,
        replay=replay,
        policy=policy,
        policy_name="test",
        setting=setting,
        page_bytes=PAGE_BYTES,
        pinned_first_pages=1,
        pinned_last_pages=1,
        warmup_steps=warmup_steps,
        chunk_pages=2,
        window_transfers=2,
    )
