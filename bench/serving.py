"""How fast kvsim schedules requests: processor time of the loop of arrivals, steps and a clock, without a cost profile.

    python bench/serving.py --traces DIR [--json] [-o DIR] [--rounds N] [--requests N]

DIR has the public traces as they come: ``azure-2023/AzureLLMInferenceTrace_conv.csv.gz`` (the first 1,000 requests that
have at most 4,096 tokens, prompt and output together) and ``mooncake/conversation_trace.jsonl.gz`` (all requests; an id
of 512 tokens becomes 32 blocks of 16). A step takes STEP_S and TOKEN_S for each token: enough to decide who arrives
when, not a calibrated cost. The compiled core is timed on both traces; the plain one, which takes any scheduler, on the
first. The last row is the whole process of ``kvsim run`` on the first trace, on an estimated profile. Medians over
rounds, after one that compiles.

Where sched-sim is installed (``pip install "kvsim[bench]"``, ``locks/bench.txt``), it serves the first trace in the
same rounds, with the same pool, token budget and clock. Its steps are its own: it is no twin of vLLM's scheduler.
Other peers could not be timed (docs/benchmarks.md).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from serving_parts.command import run_command
from serving_parts.traffic import (
    AZURE,
    BLOCK_TOKENS,
    BUDGET_TOKENS,
    MOONCAKE,
    SEQUENCES,
    STEP_S,
    TOKEN_S,
    Traffic,
    read_azure,
    read_mooncake,
)

from kvsim.caches.blocks import BlockPool, BlockTables
from kvsim.policies.schedulers import Core, PlainCore, StepBudget
from kvsim.policies.schedulers.compiled import CompiledCore
from kvsim.policies.schedulers.vllm import Vllm

TARGET_S = {("azure-conversation", "compiled"): 0.25, ("mooncake-conversation", "compiled"): 10.0}
TARGET_S |= {("azure-conversation", "kvsim run"): 1.5}
"""Processor seconds that an event loop, and a whole process, may take."""

Serve = Callable[[], tuple[int, int, float]]
"""Serves all requests of a trace, and returns steps, tokens computed and simulated seconds."""
Make = Callable[[Traffic], Serve]
"""Returns what serves a trace once, ready to begin."""


def make_compiled(traffic: Traffic) -> Serve:
    """Return a run of the compiled core."""
    core = CompiledCore(
        Vllm(),
        budget_of(traffic),
        traffic.requests,
        num_blocks=traffic.num_blocks,
        block_tokens=BLOCK_TOKENS,
        keys=traffic.chains.keys,
        key_starts=traffic.chains.starts,
    )
    return lambda: serve(core, traffic.arrival_s)


def make_plain(traffic: Traffic) -> Serve:
    """Return a run of the plain core."""
    blocks = BlockTables(BlockPool(traffic.num_blocks), BLOCK_TOKENS, traffic.chains.lists())
    core = PlainCore(Vllm(), budget_of(traffic), blocks, traffic.requests.requests())
    return lambda: serve(core, traffic.arrival_s)


def make_peers() -> dict[str, Make]:
    """Return the peers that are installed."""
    if importlib.util.find_spec("sched_sim") is None:
        return {}
    from serving_parts.sched_sim_peer import NAME, SchedSim  # noqa: PLC0415 - optional

    return {NAME: lambda traffic: SchedSim(traffic).serve}


def budget_of(traffic: Traffic) -> StepBudget:
    """Return the limits of a step."""
    longest = int(traffic.requests.stop_tokens.max())
    return StepBudget(tokens=BUDGET_TOKENS, sequences=SEQUENCES, model_tokens=longest)


def serve(core: Core, arrival_s: list[float]) -> tuple[int, int, float]:
    """Return the steps, the tokens computed and the simulated seconds of serving all requests."""
    now_s, place, steps, tokens = 0.0, 0, 0, 0
    while place < len(arrival_s) or core.num_unfinished:
        if not core.num_unfinished:
            now_s = max(now_s, arrival_s[place])
        while place < len(arrival_s) and arrival_s[place] <= now_s:
            core.add(place)
            place += 1
        work = core.schedule().work
        now_s += STEP_S + TOKEN_S * work.tokens
        core.update()
        steps, tokens = steps + 1, tokens + work.tokens
    return steps, tokens, now_s


def bench_trace(traffic: Traffic, makes: dict[str, Make], rounds: int) -> list[dict[str, Any]]:
    """Return a row for each that serves the trace, taking turns."""
    took_s: dict[str, list[float]] = {name: [] for name in makes}
    served = {}
    for number in range(rounds + 1):
        for name, make in makes.items():
            run_once = make(traffic)
            start_s = time.process_time()
            served[name] = run_once()
            if number:
                took_s[name].append(time.process_time() - start_s)
    return [
        row_of(traffic, name, len(traffic.requests), took_s[name])
        | {"steps": steps, "tokens": tokens, "simulated_s": simulated_s}
        for name, (steps, tokens, simulated_s) in served.items()
    ]


def bench_command(traces: Path, traffic: Traffic, rounds: int) -> dict[str, Any]:
    """Return the row of the whole process."""
    runs = [run_command(traces, traffic) for _ in range(rounds + 1)]
    row = row_of(traffic, "kvsim run", runs[0]["requests"], [run["cpu_s"] for run in runs[1:]])
    return row | {"steps": runs[0]["steps"], "files": runs[0]["files"]}


def row_of(traffic: Traffic, name: str, num_requests: int, took_s: list[float]) -> dict[str, Any]:
    """Return what all rows of the table have."""
    return {
        "trace": traffic.name,
        "what": name,
        "requests": num_requests,
        "blocks": traffic.num_blocks,
        "cpu_s": float(np.median(took_s)),
        "cpu_s_rounds": took_s,
        "target_s": TARGET_S.get((traffic.name, name)),
    }


def run(traces: Path, rounds: int, num_requests: int | None = None) -> dict[str, Any]:
    """Return all rows and what they were measured on."""
    azure = read_azure(traces / AZURE, num_requests or 1000)
    mooncake = read_mooncake(traces / MOONCAKE, num_requests)
    rows = [
        *bench_trace(azure, {"compiled": make_compiled, "plain": make_plain, **make_peers()}, rounds),
        bench_command(traces, azure, rounds),
        *bench_trace(mooncake, {"compiled": make_compiled}, rounds),
    ]
    return {
        "rows": rows,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "machine": platform.processor(),
        "python": platform.python_version(),
    }


def table_text(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table for people."""
    lines = ["trace                  what              requests  blocks    steps  CPU s  target s"]
    for row in rows:
        target = "-" if row["target_s"] is None else f"{row['target_s']:g}"
        lines.append(
            f"{row['trace']:<22} {row['what']:<17} {row['requests']:>8} {row['blocks']:>7} {row['steps']:>8} "
            f"{row['cpu_s']:>6.3f}  {target:>8}"
        )
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, required=True, help="folder of the public traces")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=None, help="requests of each trace (default: 1,000 and all)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-o", "--output", type=Path, default=None, help="folder for serving.json")
    options = parser.parse_args()
    report = run(options.traces, options.rounds, options.requests)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "serving.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report) if options.json else table_text(report["rows"]))
    return int(any(row["target_s"] is not None and row["cpu_s"] > row["target_s"] for row in report["rows"]))


if __name__ == "__main__":
    sys.exit(main())
