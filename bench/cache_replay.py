"""How fast kvsim replays a trace through a cache, beside libCacheSim on the same trace in the same process.

    python bench/cache_replay.py [--json] [-o DIR] [--accesses N] [--rounds N]

libCacheSim (pip install "kvsim[bench]"; its wheel is GPLv3 and no dependency of kvsim) reads a binary trace by its own
memory-mapped reader and is timed over its native `process_trace` alone; its hash table is sized for its best. kvsim is
timed over `replay_ids`, allocation and Belady's next uses included (libCacheSim's file has the next uses in it), and a
second figure adds what it costs to turn the file's 64-bit keys into dense ids. Both run on one thread; processor time,
rounds of both alternate, medians.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kvsim.caches import CACHE_POLICIES
from kvsim.caches.keys import KeyTable
from kvsim.caches.replay import replay_ids
from kvsim.kernels.replay.belady import next_uses
from kvsim.kernels.replay.contract import NONE

PEERS = {
    "fifo": "FIFO",
    "lru": "LRU",
    "sieve": "Sieve",
    "arc": "ARC",
    "s3-fifo": "S3FIFO",
    "belady": "Belady",
    "lfu": "LFU",
    "random": "Random",
}
TARGETS = {"fifo": 10, "lru": 10, "sieve": 10, "arc": 5, "s3-fifo": 5, "belady": 5}
SAME_HITS = ("fifo", "lru", "sieve", "arc", "belady", "lfu")
"""What must agree to the last hit. S3-FIFO differs (docs/benchmarks.md says how), random by nature."""

LAYERS, PAGES, SELECTED, STAYS_FRAC = 30, 64, 8, 0.85


def zipf_trace(accesses: int, objects: int, seed: int = 1) -> np.ndarray:
    """Return 64-bit keys drawn from `objects` with odds of one over their rank."""
    generator = np.random.default_rng(seed)
    odds = np.cumsum(1 / np.arange(1, objects + 1))
    ranks = np.searchsorted(odds, generator.random(accesses) * odds[-1])
    return generator.integers(0, 2**62, objects)[ranks]


def page_trace(accesses: int, seed: int = 2) -> np.ndarray:
    """Return page ids of a decode: each step reads 8 of 64 pages a layer, each with odds of 0.85 read a step ago."""
    generator = np.random.default_rng(seed)
    first_pages = PAGES * np.arange(LAYERS)[:, None]
    selected = np.argsort(generator.random((LAYERS, PAGES)), axis=1) < SELECTED
    steps = []
    for _ in range(-(-accesses // (LAYERS * SELECTED))):
        drawn = generator.random((LAYERS, PAGES))
        rank = np.where(selected & (drawn < STAYS_FRAC), 2.0, np.where(selected, -1.0, drawn))
        chosen = np.sort(np.argpartition(-rank, SELECTED - 1, axis=1)[:, :SELECTED], axis=1)
        selected = np.zeros_like(selected)
        np.put_along_axis(selected, chosen, True, axis=1)
        steps.append((first_pages + chosen).ravel())
    return np.concatenate(steps)[:accesses]


def write_peer_trace(path: Path, keys: np.ndarray, ids: np.ndarray, num_ids: int) -> None:
    """Write libCacheSim's `oracleGeneral` records: time, key, size, next use (-1 for never)."""
    record = np.dtype([("time", "<u4"), ("key", "<u8"), ("size", "<u4"), ("next", "<i8")])
    records = np.zeros(keys.size, dtype=record)
    uses = next_uses(ids, num_ids).astype(np.int64)
    records["key"], records["size"] = keys.view(np.uint64), 1
    records["next"] = np.where(uses == NONE, -1, uses)
    records.tofile(path)


def peer_replay(path: Path, capacity: int, policy: str) -> Callable[[], float]:
    """Return a call that replays the file by libCacheSim and gives its miss ratio; cache and reader are made before."""
    import libcachesim  # noqa: PLC0415 - optional

    power = (2 * capacity - 1).bit_length()
    cache = getattr(libcachesim, PEERS[policy])(capacity, hashpower=power)
    reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
    return lambda: float(cache.process_trace(reader)[0])


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `call` returns and the seconds of processor time it took, which other processes hardly disturb."""
    start_s = time.process_time()
    result = call()
    return result, time.process_time() - start_s


def bench_trace(name: str, keys: np.ndarray, capacity: int, rounds: int, folder: Path | None) -> list[dict[str, Any]]:
    """Return a row for each policy; without `folder` there is no peer."""
    keys_s = []
    for _ in range(rounds + 1):
        table = KeyTable()
        ids, took_s = timed(lambda table=table: table.ids_of(keys))
        keys_s.append(took_s)
    dense_s = float(np.median(keys_s[1:]))
    path = folder / f"{name}.bin" if folder else None
    if path:
        write_peer_trace(path, keys, ids, table.num_ids)
    rows = []
    for policy in CACHE_POLICIES:
        rows.append(bench_policy(name, policy, ids, table.num_ids, capacity, rounds, path, dense_s))
        print(f"{name} {policy}: done", file=sys.stderr)
    if path:
        path.unlink()
    return rows


def bench_policy(
    trace: str,
    policy: str,
    ids: np.ndarray,
    num_ids: int,
    capacity: int,
    rounds: int,
    path: Path | None,
    dense_s: float,
) -> dict[str, Any]:
    """Return one row: hits and speeds of both, and the ratio's median and spread over rounds."""
    ours_s, peers_s, peer_hits = [], [], None
    for number in range(rounds + 1):  # the first warms up: it compiles
        if path and policy in PEERS:
            miss_frac, took_s = timed(peer_replay(path, capacity, policy))
            peer_hits = round((1 - miss_frac) * ids.size)
            peers_s += [took_s] if number else []
        result, took_s = timed(lambda: replay_ids(ids, num_ids, capacity, policy))
        ours_s += [took_s] if number else []
    row: dict[str, Any] = {
        "trace": trace,
        "policy": policy,
        "accesses": int(ids.size),
        "keys": num_ids,
        "capacity": capacity,
        "hits": result.hits,
        "hit_frac": result.hit_frac,
        "accesses_per_s": ids.size / float(np.median(ours_s)),
        "accesses_per_s_with_keys": ids.size / (float(np.median(ours_s)) + dense_s),
        "samples_s": ours_s,
    }
    if peers_s:
        ratios = np.array(peers_s) / np.array(ours_s)
        row |= {
            "libcachesim_hits": peer_hits,
            "libcachesim_accesses_per_s": ids.size / float(np.median(peers_s)),
            "libcachesim_samples_s": peers_s,
            "ratio": float(np.median(ratios)),
            "ratio_p20": float(np.quantile(ratios, 0.2)),
            "ratio_p80": float(np.quantile(ratios, 0.8)),
            "ratio_with_keys": float(np.median(peers_s)) / (float(np.median(ours_s)) + dense_s),
        }
    return row


def table_text(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table of aligned columns."""
    lines = [
        f"{'trace':<6}{'policy':<14}{'hit ratio':>10}{'hits':>11}{'libCacheSim':>13}"
        f"{'M/s':>8}{'with keys':>11}{'theirs':>8}{'ratio':>8}{'p20-p80':>14}{'with keys':>11}{'wanted':>8}"
    ]
    for row in rows:
        line = (
            f"{row['trace']:<6}{row['policy']:<14}{row['hit_frac']:>10.4f}{row['hits']:>11}"
            f"{row.get('libcachesim_hits', '-'):>13}{row['accesses_per_s'] / 1e6:>8.1f}"
            f"{row['accesses_per_s_with_keys'] / 1e6:>11.1f}"
        )
        if "ratio" in row:
            spread = f"{row['ratio_p20']:.1f}-{row['ratio_p80']:.1f}"
            wanted = f">= {TARGETS[row['policy']]}" if row["policy"] in TARGETS else "-"
            line += (
                f"{row['libcachesim_accesses_per_s'] / 1e6:>8.1f}{row['ratio']:>8.1f}{spread:>14}"
                f"{row['ratio_with_keys']:>11.1f}{wanted:>8}"
            )
        lines.append(line)
    return "\n".join(lines)


def report_of(rows: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    ratio: dict[str, dict[str, float]] = {}
    for row in rows:
        if "ratio" in row:
            ratio.setdefault(row["trace"], {})[row["policy"]] = row["ratio"]
    unequal = [
        f"{row['trace']} {row['policy']}"
        for row in rows
        if row["policy"] in SAME_HITS and "ratio" in row and row["hits"] != row["libcachesim_hits"]
    ]
    packages = ("numpy", "numba", "llvmlite", *(["libcachesim"] if ratio else []))
    return {
        "ratio": ratio,
        "unequal_hits": unequal,
        "rounds": rounds,
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "rows": rows,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def run(accesses: int, rounds: int) -> dict[str, Any]:
    """Run the whole benchmark at some size and return the report."""
    objects, capacity = max(10, accesses // 10), max(2, accesses // 100)
    traces = {"zipf": (zipf_trace(accesses, objects), capacity), "page": (page_trace(accesses), LAYERS * PAGES // 2)}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (keys, slots) in traces.items():
            peer = Path(folder) if importlib.util.find_spec("libcachesim") else None
            rows += bench_trace(name, keys, slots, rounds, peer)
    return report_of(rows, rounds)


def main() -> None:
    """Parse, run, print; exit 1 where hits that must agree do not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--accesses", type=int, default=10_000_000, help="of each trace; 10 million is the benchmark")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("-o", "--output", type=Path, help="folder for report.json and table.txt")
    options = parser.parse_args()
    report = run(options.accesses, options.rounds)
    text = table_text(report["rows"])
    if not report["ratio"]:
        text += '\nlibCacheSim is not installed, so there is no ratio: pip install "kvsim[bench]"'
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        (options.output / "table.txt").write_text(text + "\n")
    print(json.dumps(report, indent=1) if options.json else text)
    if report["unequal_hits"]:
        sys.exit(f"hits differ: {', '.join(report['unequal_hits'])}")


if __name__ == "__main__":
    main()
