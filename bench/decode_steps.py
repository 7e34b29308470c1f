"""How many decode steps a second the simulator does: whole steps against events, a plain policy, the full time model.

    python bench/decode_steps.py [--steps N] [--repeats N] [--profile NAME] [--json] [-o DIR]

One sequence, 30 layers of 64 pages, the 8 best read, a quarter of the pages on the device, misses and next-step
prefetches on one link. All paths but ``window_8`` decide alike, LRU and the prefetcher as it is by default, and their
rows over the first steps must agree: counts and digests exactly, times to 1e-9. Steps are counted in CPU seconds of one
process, repeats of all paths alternate, figures are medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from kvsim.policies import NOTHING, Plan, Policy, Setting, View, make_policy
from kvsim.profile.profile import LinkCost, Profile, SegmentCost, load_profile
from kvsim.profile.tables import CostTable
from kvsim.scenario.shipped import find_profile
from kvsim.sim import SimulationInput
from kvsim.sim.replay import Block, Reading
from kvsim.sim.simulation import decode_in_chunks, simulate_decode
from kvsim.types import IntArray, PageGrid, PageIds

NUM_LAYERS, PAGES, TOP_K, OVERLAP_FRAC, PAGE_TOKENS, QUOTA = 30, 64, 8, 0.85, 16, 4
PERIOD_STEPS = 256
CONTEXT_TOKENS = PAGES * PAGE_TOKENS - 8  # the open page stays open: selections repeat, so the context stands still
PAGE_BYTES = 65_536
PREFETCH = {"prefetch": "next-step"}
WINDOW_STEPS = 6
"""The prefetcher's default. From 8 on it wants what LRU lets go, and 30 pages a step come, most of them in vain."""
SHORT_STEPS = 4 * PERIOD_STEPS
"""Steps of the slow paths; over so many all paths are compared."""


class Looped:
    """Selections drawn once and read again and again, as a `Replay` of any number of steps."""

    scores_pages = True
    selects_by_speculation = False
    page_tokens = PAGE_TOKENS

    def __init__(self, num_steps: int, seed: int) -> None:
        self.num_steps = num_steps
        self.grid = PageGrid(num_sequences=1, num_layers=NUM_LAYERS, pages_per_layer=PAGES)
        selections = draw_selections(seed)
        self._readings = [[self._reading(layer, row[layer]) for layer in range(NUM_LAYERS)] for row in selections]
        firsts = np.arange(NUM_LAYERS)[:, None] * PAGES
        self._blocks: dict[tuple[int, int], Block] = {}
        self._selected = (selections + firsts).reshape(PERIOD_STEPS, -1)

    def context_tokens(self, step: int) -> IntArray:
        """Return the context, the same at every step."""
        del step
        return np.array([CONTEXT_TOKENS], dtype=np.int64)

    def num_pages(self, tokens: IntArray) -> IntArray:
        """Return the pages that hold `tokens`."""
        return -(-tokens // PAGE_TOKENS)

    def at(self, step: int, layer: int, *, everything: bool) -> Reading:
        """Return what one layer reads."""
        del everything
        return self._readings[step % PERIOD_STEPS][layer]

    def block(self, first_step: int, *, everything: bool) -> Block:
        """Return the readings up to the end of the period."""
        del everything
        place = first_step % PERIOD_STEPS
        num_steps = min(PERIOD_STEPS - place, self.num_steps - first_step)
        if (place, num_steps) not in self._blocks:
            self._blocks[place, num_steps] = self._pack(place, num_steps)
        return replace(self._blocks[place, num_steps], first_step=first_step)

    def _pack(self, place: int, num_steps: int) -> Block:
        readings = [reading for row in self._readings[place : place + num_steps] for reading in row]
        return Block(
            first_step=place,
            num_steps=num_steps,
            selected=self._selected[place : place + num_steps].reshape(-1),
            offsets=np.arange(num_steps * NUM_LAYERS + 1, dtype=np.int64) * TOP_K,
            context=np.full((num_steps, 1), CONTEXT_TOKENS, dtype=np.int64),
            scores=[reading.scores for reading in readings],
            mass_recall_frac=np.ones(num_steps),
        )

    def _reading(self, layer: int, indices: IntArray) -> Reading:
        return Reading(
            num_pages=np.array([PAGES], dtype=np.int64),
            selected=layer * PAGES + indices,
            scores=np.zeros((1, PAGES), dtype=np.float16),
            attended_frac=np.ones(1),
        )


def draw_selections(seed: int) -> IntArray:
    """Return page indices, ascending, ``[PERIOD_STEPS, NUM_LAYERS, TOP_K]``: the last page always, others by turns.

    From step to step each page but the last stays with a chance such that the overlap is `OVERLAP_FRAC`; who comes is
    drawn by Zipf's law over the layer's pages in an order of its own.
    """
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, PAGES)
    order = np.array([rng.permutation(PAGES - 1) for _ in range(NUM_LAYERS)])
    stays_frac = 1 - (1 - OVERLAP_FRAC) * TOP_K / (TOP_K - 1)
    drawn = np.empty((PERIOD_STEPS, NUM_LAYERS, TOP_K), dtype=np.int64)
    for layer in range(NUM_LAYERS):
        chances = np.empty(PAGES - 1)
        chances[order[layer]] = weights / weights.sum()
        chosen = rng.choice(PAGES - 1, TOP_K - 1, replace=False, p=chances)
        for step in range(PERIOD_STEPS):
            kept = chosen[rng.random(TOP_K - 1) < stays_frac]
            others = chances.copy()
            others[chosen] = 0
            come = rng.choice(PAGES - 1, TOP_K - 1 - kept.size, replace=False, p=others / others.sum())
            chosen = np.concatenate((kept, come))
            drawn[step, layer] = np.sort(np.append(chosen, PAGES - 1))
    return drawn


class PlainLru:
    """Least recently used with next-step prefetch in plain Python, as a plug-in's author would write it."""

    attends: ClassVar[Literal["selection", "everything"]] = "selection"
    holds: ClassVar[Literal["budget", "everything"]] = "budget"
    reads_selection: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        self._pages_per_layer, self._num_layers = setting.grid.pages_per_layer, setting.grid.num_layers
        self._read_at: dict[int, int] = {}
        """Steps of the last readings of what is resident; the page read longest ago comes first."""
        self._lost: list[dict[int, int]] = [{} for _ in range(self._num_layers)]
        """The same of what was let go while it was still within the window, by layer."""

    def start(self, resident: PageIds) -> None:
        """Take the pages of prefill in order of their ids."""
        self._read_at = dict.fromkeys(resident.tolist(), -WINDOW_STEPS)

    def page_opened(self, page: int) -> None:
        """Take an opened page as the latest."""
        self._read_at[page] = -WINDOW_STEPS

    def decide(self, view: View) -> Plan:
        """Return the oldest pages that may leave, and what the layer read lately and has lost."""
        read_at, step, lost = self._read_at, view.step, self._lost[view.layer]
        for page in view.selected.tolist():
            read_at.pop(page, None)
            read_at[page] = step
        wanted = self._wanted(view, lost) if lost else []
        count, victims = len(wanted) - view.free_slots, []
        if count <= 0 and not wanted:
            return NOTHING
        for page in read_at:
            if len(victims) >= count:
                break
            if view.evictable[page]:
                victims.append(page)
        for page in victims:
            self._lose(page, read_at.pop(page), step)
        coming = wanted[: view.free_slots + len(victims)]
        for page in coming:
            read_at[page] = lost.pop(page)
        return Plan(victims=np.array(victims, dtype=np.int64), prefetches=np.array(coming, dtype=np.int64))

    def _wanted(self, view: View, lost: dict[int, int]) -> list[int]:
        for page in view.misses.tolist():
            lost.pop(page, None)
        for page in [page for page, at in lost.items() if at <= view.step - WINDOW_STEPS]:
            del lost[page]
        return sorted(lost, key=lambda page: (-lost[page], page))[: view.prefetch_quota]

    def _lose(self, page: int, at: int, step: int) -> None:
        if at > step - WINDOW_STEPS:
            self._lost[page // self._pages_per_layer % self._num_layers][page] = at


def reduced(profile: Profile) -> Profile:
    """Return `profile` with compute and link alone: no host, synchronisation, decision or submission, no slowdown."""
    free = CostTable(amount="none", amounts=(1.0,), time_s=((0.0,),))
    link = profile.link
    return profile.model_copy(
        update={
            "segments": {name: SegmentCost(device=cost.device) for name, cost in profile.segments.items()},
            "synchronous": True,
            "sync_s": 0.0,
            "policies": {"*": free},
            "link": link.model_copy(
                update={
                    "issue": "worker",
                    "to_device": LinkCost(transfer=link.to_device.transfer, submit_s=0.0, mechanism="as measured"),
                    "to_host": LinkCost(transfer=link.to_host.transfer, submit_s=0.0, mechanism="as measured"),
                    "both_ways_slowdown_frac": 0.0,
                    "compute_slowdown_frac": 0.0,
                }
            ),
        }
    )


def make_input(profile: Profile, num_steps: int, seed: int, make: Callable[[Setting], Policy]) -> SimulationInput:
    """Return the run to time."""
    replay: Any = Looped(num_steps, seed)
    setting = Setting(
        grid=replay.grid,
        capacity_pages=NUM_LAYERS * PAGES // 4,
        partition="shared",
        prefetch_quota_pages=QUOTA,
        seed=seed,
    )
    return SimulationInput(
        profile=profile,
        replay=replay,
        policy=make(setting),
        policy_name="lru",
        setting=setting,
        page_bytes=PAGE_BYTES,
        pinned_first_pages=0,
        pinned_last_pages=0,
        warmup_steps=0,
        chunk_pages=QUOTA,
        window_transfers=2,
    )


Rows = dict[str, NDArray[np.generic]]


def timed(given: SimulationInput, *, by_events: bool) -> tuple[dict[str, float], list[Rows]]:
    """Return the steps a CPU second of one run and what happened in one of its steps on average, and its first rows."""
    num_steps, first = given.replay.num_steps, []
    sums = dict.fromkeys(("misses", "prefetched", "used", "late", "step_s", "stall_s"), 0.0)
    began_s = time.process_time()
    for rows in [simulate_decode(given, path="events")] if by_events else decode_in_chunks(given):
        for name in sums:
            sums[name] += float(np.asarray(rows[name], dtype=np.float64).sum())
        first = first or [dict(rows)]
    steps_per_s = num_steps / (time.process_time() - began_s)
    return {"steps_per_s": steps_per_s} | {name: total / num_steps for name, total in sums.items()}, first


def difference(one: Rows, other: Rows) -> str | None:
    """Return the first column in which two runs differ, None where they agree as far as the shorter goes.

    Of what was prefetched and never read, the last row of a run counts the rest; that column is left out.
    """
    size = min(one["step"].size, other["step"].size)
    for name in one.keys() - {"wasted"}:
        tolerance = 1e-9 if name.endswith("_s") else 0.0
        if not np.allclose(one[name][:size], other[name][:size], rtol=tolerance, atol=0.0):
            return name
    return None


def measure(num_steps: int, repeats: int, profile_name: str, seed: int) -> dict[str, Any]:
    """Return the medians of every path, and what they ran on."""
    full = load_profile(find_profile(profile_name))
    small = reduced(full)

    def lru(setting: Setting) -> Policy:
        return make_policy("lru", setting, PREFETCH)

    def lru_window_8(setting: Setting) -> Policy:
        return make_policy("lru", setting, {**PREFETCH, "window_steps": 8})

    short = min(SHORT_STEPS, num_steps)
    paths: dict[str, tuple[Profile, Callable[[Setting], Policy], int, bool]] = {
        "fast_path_compiled": (small, lru, num_steps, False),
        "event_compiled": (small, lru, short, True),
        "plain_policy": (small, PlainLru, max(short, num_steps // 20), False),
        "full_model": (full, lru, num_steps, False),
        "full_model_events": (full, lru, short, True),
        "window_8": (small, lru_window_8, num_steps, False),
    }
    for profile, make, _, by_events in paths.values():  # compiles
        timed(make_input(profile, min(short, 64), seed, make), by_events=by_events)
    warm_bytes = _peak_bytes()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in paths}
    first: dict[str, Rows] = {}
    for _ in range(repeats):
        for name, (profile, make, steps, by_events) in paths.items():
            figures, [first[name]] = timed(make_input(profile, steps, seed, make), by_events=by_events)
            runs[name].append(figures)
    _compare(first)
    found = {
        name: {key: statistics.median(each[key] for each in figures) for key in figures[0]}
        | {"num_steps": paths[name][2]}
        for name, figures in runs.items()
    }
    return {
        "steps_per_s": {name: figures["steps_per_s"] for name, figures in found.items()},
        "paths": found,
        "compared_steps": short,
        "repeats": repeats,
        "profile": profile_name,
        "peak_memory_bytes": _peak_bytes(),
        "peak_memory_of_64_steps_bytes": warm_bytes,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("simpy", "numpy", "numba")},
        },
        "processor": platform.processor() or platform.machine(),
    }


def _compare(first: dict[str, Rows]) -> None:
    """Leave with a line where paths that must agree do not."""
    for name, other in (
        ("fast_path_compiled", "event_compiled"),
        ("fast_path_compiled", "plain_policy"),
        ("full_model", "full_model_events"),
    ):
        column = difference(first[name], first[other])
        if column is not None:
            sys.exit(f"{name} and {other} differ in {column}")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table_text(found: dict[str, Any]) -> str:
    """Return the figures as a table."""
    lines = [f"{'path':24}{'steps/s':>12}{'misses':>9}{'prefetched':>12}{'used':>7}{'late':>7}  of a step"]
    for name, row in found["paths"].items():
        counts = f"{row['misses']:9.1f}{row['prefetched']:12.1f}{row['used']:7.1f}{row['late']:7.1f}"
        lines.append(f"{name:24}{row['steps_per_s']:12,.0f}{counts}")
    before, after = (found[name] / 2**20 for name in ("peak_memory_of_64_steps_bytes", "peak_memory_bytes"))
    lines.append(f"rows agree over {found['compared_steps']} steps")
    lines.append(f"peak memory {before:.0f} MiB after 64 steps of each, {after:.0f} at the end")
    return "\n".join(lines)


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=200_000, help="steps of the fastest path")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", default="cpu-smollm2-135m")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("-o", "--output", type=Path, help="folder for decode_steps.json and table.txt")
    given = parser.parse_args()
    found = measure(given.steps, given.repeats, given.profile, given.seed)
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "decode_steps.json").write_text(json.dumps(found, indent=1) + "\n")
        (given.output / "table.txt").write_text(table_text(found) + "\n")
    print(json.dumps(found, indent=1) if given.json else table_text(found))


if __name__ == "__main__":
    main()
