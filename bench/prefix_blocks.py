"""How many blocks a second the prefix cache replays, by policy: `python bench/prefix_blocks.py [TRACE] [--json]`.

Reading the trace is timed apart. Without a file the agent sessions that ship are replayed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from kvsim.caches.prefix import EVICTIONS, replay, replay_radix
from kvsim.scenario.shipped import find_requests
from kvsim.traces.requests.base import RequestBlocks
from kvsim.traces.requests.contents import blocks_of
from kvsim.traces.requests.registry import open_requests

BUDGET_FRAC = 0.05
REPEATS = 5


def main() -> None:
    """Time reader and replay, and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", nargs="?", type=Path, help="a request trace of any format with block ids")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    started_s = time.process_time()
    requests = read(arguments.trace)
    read_s = time.process_time() - started_s
    num_blocks, budget = int(requests.blocks.size), max(1, round(BUDGET_FRAC * requests.num_distinct))
    rows = [{"what": "reader", "blocks_per_s": num_blocks / read_s, "block_hit_frac": None}]
    for policy in EVICTIONS:
        args = requests.blocks, requests.starts, requests.parents
        rows.append(timed(f"compiled {policy}", num_blocks, replay, *args, policy=policy, budget_blocks=budget))
    args = requests.blocks, requests.starts
    rows.append(timed("radix tree lru", num_blocks, replay_radix, *args, policy="lru", budget_blocks=budget))
    found = {"num_blocks": num_blocks, "distinct_blocks": requests.num_distinct, "budget_blocks": budget, "rows": rows}
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{num_blocks:,} blocks, {requests.num_distinct:,} different, budget {budget:,}; processor time, median")
    for row in rows:
        hits = "" if row["block_hit_frac"] is None else f"  hits {row['block_hit_frac']:.4f}"
        print(f"{row['what']:<28} {row['blocks_per_s'] / 1e6:8.2f} M blocks/s{hits}")


def read(path: Path | None) -> RequestBlocks:
    """Return the trace given, or the one that ships."""
    return blocks_of(open_requests(path or find_requests("agent-sessions")))


def timed(what, num_blocks, run, *args, **options):
    """Return a row: blocks a second of processor time after one warm-up, the median, and the hit rate."""
    done = run(*args, **options)
    times_s = []
    for _ in range(REPEATS):
        started_s = time.process_time()
        done = run(*args, **options)
        times_s.append(time.process_time() - started_s)
    return {
        "what": what,
        "blocks_per_s": num_blocks / statistics.median(times_s),
        "block_hit_frac": float(done.hits.sum() / num_blocks),
    }


if __name__ == "__main__":
    main()
