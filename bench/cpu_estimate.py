"""Predict a CPU's calibrated profile from two measured numbers: `python bench/cpu_estimate.py`.

The two numbers stand for a data sheet: the bandwidth at which one thread reads memory, and the rate at which it
multiplies bf16 matrices. They become a card, the card an estimated profile, and each segment of that is compared with
the profile that `kvsim calibrate` measured. Without ``--measured`` both are measured here, on an idle machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from kvsim.profile.cards.card import Card
from kvsim.profile.estimate.estimate import estimate_profile
from kvsim.profile.estimate.hosts import LAYER
from kvsim.profile.estimate.step import decode_step_s
from kvsim.profile.profile import SEGMENTS, Profile, load_profile
from kvsim.units import format_seconds

PROFILE = Path(__file__).resolve().parent.parent / "profiles" / "cpu-smollm2-135m.toml"
FLOATS = 2**26
"""Numbers of each of two arrays, 256 MiB: far more than a cache."""
MATRIX = 1024
REPEATS = 20
CONTEXTS_TOKENS = (512, 2048)
HEAD = ("segment", "batch", "amount", "measured", "kernels", "error", "with launches", "error")
Row: TypeAlias = tuple[str, ...]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measured", nargs=2, type=float, metavar=("GB/S", "GFLOP/S"))
    arguments = parser.parse_args()
    bandwidth, rate = arguments.measured or (measured_bandwidth() / 1e9, measured_rate() / 1e9)
    print(f"{bandwidth:.1f} GB/s, {rate:.1f} GFLOP/s\n")
    print(table(load_profile(PROFILE), bandwidth * 1e9, rate * 1e9), end="")


def measured_bandwidth() -> float:
    """Return the bytes per second of a dot product of two arrays."""
    left, right = np.ones(FLOATS, dtype=np.float32), np.ones(FLOATS, dtype=np.float32)
    return 2 * left.nbytes / fastest_s(lambda: np.dot(left, right))


def measured_rate() -> float:
    """Return the operations per second of a product of bf16 matrices, on one thread."""
    torch.set_num_threads(1)
    matrix = torch.ones(MATRIX, MATRIX, dtype=torch.bfloat16)
    return 2 * MATRIX**3 / fastest_s(lambda: matrix @ matrix)


def fastest_s(call: Callable[[], object]) -> float:
    """Return the shortest of a number of calls: what else runs only makes them longer."""
    times_s = []
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - start_s)
    return min(times_s)


def table(measured: Profile, bandwidth_bytes_per_s: float, rate_flop_per_s: float) -> str:
    """Return a row for each segment at the ends of its measured range, and for complete steps, as Markdown."""
    estimated = estimated_from(measured, bandwidth_bytes_per_s, rate_flop_per_s)
    rows = [*segment_rows(measured, estimated), *step_rows(measured, estimated)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (HEAD, ("---", "---:", "---", *("---:",) * 5), *rows))


def estimated_from(measured: Profile, bandwidth_bytes_per_s: float, rate_flop_per_s: float) -> Profile:
    """Return the profile that is estimated for a card with these two figures, kernels launched one by one."""
    card = Card(
        name="cpu",
        title=measured.machine.processor,
        vendor="other",
        memory_bytes=measured.device_memory_bytes,
        memory_bandwidth_bytes_per_s=int(bandwidth_bytes_per_s),
        bf16_flop_per_s=rate_flop_per_s,
        unified_memory=True,
    )
    return estimate_profile(card, measured.shape, runtime="eager")


def segment_rows(measured: Profile, estimated: Profile) -> Iterator[Row]:
    """Yield the rows of the segments."""
    for name in SEGMENTS:
        theirs = measured.segments[name].device
        for batch in (theirs.columns[0], theirs.columns[-1]):
            for amount in dict.fromkeys((theirs.amounts[0], theirs.amounts[-1])):
                at = "" if theirs.amount == "none" else f"{amount:,.0f} {theirs.amount}"
                yield row(
                    name, batch, at, theirs.at_s(amount, sequences=batch), parts_s(estimated, name, amount, batch)
                )


def step_rows(measured: Profile, estimated: Profile) -> Iterator[Row]:
    """Yield the rows of steps with everything on the device."""
    for tokens in CONTEXTS_TOKENS:
        parts = [
            (count * device_s, count * host_s)
            for name, count in (("embed", 1), *((name, measured.shape.num_layers) for name in LAYER), ("head", 1))
            for device_s, host_s in [parts_s(estimated, name, tokens, 1)]
        ]
        estimated_s = sum(device_s for device_s, _ in parts), sum(host_s for _, host_s in parts)
        measured_s = decode_step_s(measured, batch=1, context_tokens=tokens)
        yield row("complete step", 1, f"{tokens:,} tokens", measured_s, estimated_s)


def parts_s(profile: Profile, name: str, amount: float, batch: float) -> tuple[float, float]:
    """Return what the kernels of a segment take, and what launching them takes."""
    cost = profile.segments[name]
    amount = 0 if cost.device.amount == "none" else amount
    host_s = cost.host.at_s(amount, sequences=batch) if cost.host else 0.0
    return cost.device.at_s(amount, sequences=batch), host_s


def row(name: str, batch: float, at: str, measured_s: float, estimated_s: tuple[float, float]) -> Row:
    """Return one row; on a processor the kernels of a segment run after one another, and so do their launches."""
    kernels_s, total_s = estimated_s[0], sum(estimated_s)
    errors = [f"{100 * (time_s / measured_s - 1):+.0f}%" for time_s in (kernels_s, total_s)]
    times = [format_seconds(time_s) for time_s in (measured_s, kernels_s, total_s)]
    return name, f"{batch:.0f}", at, times[0], times[1], errors[0], times[2], errors[1]


if __name__ == "__main__":
    main()
