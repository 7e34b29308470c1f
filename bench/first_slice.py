"""Six cells on the real model, measured by the engine and replayed by the simulator: counts and times compared.

python bench/first_slice.py --model .cache/models/smollm2-135m-instruct --profile profiles/cpu-smollm2-135m.toml

The text is Python's own documentation (`pydoc_data.topics`). The trace is recorded in a pass of its own; the times per
output token come from runs without stamps, where a step's time goes from runs with them.
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from kvsim.engine.decode import DecodeResult, decode
from kvsim.engine.decode_trace import DecodeRecorder, trace_writer
from kvsim.engine.paged_run import DecodeInput
from kvsim.engine.prefill import Snapshot, prefill
from kvsim.engine.weights import load_model, shape_of
from kvsim.hardware import SEGMENTS, Profile, load_profile
from kvsim.policies import POLICIES, Setting, make_policy
from kvsim.selectors import TopK
from kvsim.sim import Replay, SimulationInput, simulate_decode
from kvsim.traces import TraceFile, open_trace
from kvsim.types import PageGrid, pages_of

PAGE_TOKENS = 32
SELECTOR = TopK(k_pages=8, sink_pages=1, recent_pages=4)
CHANNEL = "estimate:quest"
WARMUP_STEPS = 8
COUNTS = ("selected", "hits", "misses", "prefetched", "used", "wasted", "evicted", "to_device_bytes", "to_host_bytes")


def main() -> None:
    """Measure, simulate and print."""
    options = parse_options()
    profile = load_profile(options.profile)
    bandwidth_bytes_per_s = profile.link.stated_bandwidth_bytes_per_s
    assert bandwidth_bytes_per_s is not None, "the profile's link is not emulated"
    model, tokenizer = load_model(options.model, profile.shape.dtype)
    text = "".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
    ids = tokenizer(text, return_tensors="pt", verbose=False).input_ids[:, : options.context + options.steps]
    started_s = time.perf_counter()
    snapshot = prefill(model, ids[:, : options.context], room_tokens=options.steps)
    print(f"prefill of {options.context} tokens: {time.perf_counter() - started_s:.1f} s")
    forced = ids[:, options.context :]
    inputs = {
        (name, pages): input_for(name, pages, snapshot, options.steps)
        for name in options.policies
        for pages in (options.budgets if POLICIES[name].holds == "budget" else [0])
    }
    with tempfile.TemporaryDirectory() as folder:
        source = record(model, snapshot, forced, Path(folder) / "run.kvtrace", options.steps, bandwidth_bytes_per_s)
        for (name, pages), given in inputs.items():
            if given.setting.capacity_pages < minimum_pages(name, given):
                print(f"{name:9s} {pages:4d} pages a layer: below the policy's minimum, left out")
                continue
            plain = [
                decode(
                    model,
                    snapshot,
                    fresh(given, name),
                    bandwidth_bytes_per_s=bandwidth_bytes_per_s,
                    forced_tokens=forced,
                )
                for _ in range(options.repeats)
            ]
            stamped = decode(
                model,
                snapshot,
                fresh(given, name),
                bandwidth_bytes_per_s=bandwidth_bytes_per_s,
                forced_tokens=forced,
                is_stamped=True,
            )
            report(name, pages, plain, stamped, simulate(source, given, name, profile))


def parse_options() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--context", type=int, default=2500)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budgets", type=int, nargs="+", default=[16, 40])
    parser.add_argument("--policies", nargs="+", default=["resident", "stream", "lru"], choices=list(POLICIES))
    return parser.parse_args()


def input_for(policy: str, pages_per_layer: int, snapshot: Snapshot, num_steps: int) -> DecodeInput:
    """Return the run of one cell."""
    grid = PageGrid(
        num_sequences=1,
        num_layers=snapshot.num_layers,
        pages_per_layer=pages_of(snapshot.prompt_tokens + num_steps, PAGE_TOKENS),
    )
    setting = Setting(
        grid=grid,
        capacity_pages=pages_per_layer * grid.num_layers if POLICIES[policy].holds == "budget" else grid.num_pages,
        partition="shared",
        prefetch_quota_pages=8,
        seed=0,
    )
    return DecodeInput(
        selector=SELECTOR,
        channel=CHANNEL,
        policy=make_policy(policy, setting, {}),
        setting=setting,
        page_tokens=PAGE_TOKENS,
        pinned_first_pages=SELECTOR.sink_pages,
        pinned_last_pages=SELECTOR.recent_pages,
        num_steps=num_steps,
        warmup_steps=WARMUP_STEPS,
        chunk_pages=4,
        window_transfers=2,
    )


def fresh(given: DecodeInput, policy: str) -> DecodeInput:
    """Return the same run with a policy that has seen nothing."""
    fields = {name: getattr(given, name) for name in given.__slots__}
    return DecodeInput(**fields | {"policy": make_policy(policy, given.setting, {})})


def minimum_pages(policy: str, given: DecodeInput) -> int:
    """Return the fewest pages the cell can run on."""
    grid = given.setting.grid
    return 2 * grid.pages_per_layer if POLICIES[policy].attends == "everything" else 14 * grid.num_layers


def record(
    model: Any, snapshot: Snapshot, forced: Any, path: Path, num_steps: int, bandwidth_bytes_per_s: float
) -> TraceFile:
    """Return the trace of a run in which everything is resident."""
    given = input_for("resident", 0, snapshot, num_steps)
    shape = shape_of(model)
    with trace_writer(
        path, given, snapshot, shape, model="", text="pydoc_data.topics", recorded="teacher-forced"
    ) as writer:
        decode(
            model,
            snapshot,
            given,
            bandwidth_bytes_per_s=bandwidth_bytes_per_s,
            forced_tokens=forced,
            observer=lambda pool: DecodeRecorder(writer, given, pool),
        )
    return open_trace(path)


def simulate(source: TraceFile, given: DecodeInput, policy: str, profile: Profile) -> dict[str, Any]:
    """Return the simulated rows of the same cell: selections and scores replayed, decisions made anew."""
    replay = Replay(source, SELECTOR, channel=CHANNEL, page_tokens=PAGE_TOKENS, num_steps=given.num_steps)
    return simulate_decode(
        SimulationInput(
            profile=profile,
            replay=replay,
            policy=make_policy(policy, given.setting, {}),
            policy_name=policy,
            setting=given.setting,
            page_bytes=profile.shape.page_bytes(PAGE_TOKENS),
            pinned_first_pages=given.pinned_first_pages,
            pinned_last_pages=given.pinned_last_pages,
            warmup_steps=WARMUP_STEPS,
            chunk_pages=given.chunk_pages,
            window_transfers=given.window_transfers,
        )
    )


def report(
    policy: str, pages: int, plain: list[DecodeResult], stamped: DecodeResult, simulated: dict[str, Any]
) -> None:
    """Print one cell: counts, times, and where they differ."""
    for run in (*plain[1:], stamped):
        assert np.array_equal(run.counts["digest"], plain[0].counts["digest"]), "two runs of one cell decided otherwise"
    counts = plain[0].counts
    differing = np.flatnonzero(counts["digest"] != simulated["digest"])
    unequal = [name for name in COUNTS if not np.array_equal(counts[name], simulated[name])]
    verdict = (
        "counts equal" if not differing.size and not unequal else f"FIRST DIVERGENCE at step {differing[:1]} {unequal}"
    )
    measured_s = np.median([np.median(run.step_s[WARMUP_STEPS:]) for run in plain])
    spread_s = [np.median(run.step_s[WARMUP_STEPS:]) for run in plain]
    simulated_s = float(np.median(simulated["step_s"][WARMUP_STEPS:]))
    late = f"late {counts['late'].sum()} measured, {simulated['late'].sum()} simulated"
    print(
        f"{policy:9s} {pages:4d} pages a layer: TPOT {measured_s * 1e3:7.2f} ms measured "
        f"({min(spread_s) * 1e3:.2f} .. {max(spread_s) * 1e3:.2f}), {simulated_s * 1e3:7.2f} ms simulated "
        f"({100 * (simulated_s / measured_s - 1):+.1f}%); {verdict}; misses {counts['misses'].sum()}, {late}"
    )
    for name, (real_s, model_s) in parts(stamped, simulated).items():
        print(f"    {name:17s} {real_s * 1e3:8.3f} ms measured {model_s * 1e3:8.3f} ms simulated")


def parts(stamped: DecodeResult, simulated: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the median time of each part of a step, (measured, simulated)."""
    assert stamped.parts_s is not None
    real = {
        name: part.reshape(len(part), -1).sum(axis=1)[WARMUP_STEPS:].copy() for name, part in stamped.parts_s.items()
    }
    real["select"] = real["select"] + real.pop("sync") + real.pop("choose")
    found = {
        name: (real[name], simulated[f"{name}_s"][WARMUP_STEPS:]) for name in (*SEGMENTS, "stall", "decide", "submit")
    }
    return {name: (float(np.median(one)), float(np.median(other))) for name, (one, other) in found.items()}


if __name__ == "__main__":
    main()
