"""The link itself: large one-way copies, and small ones one by one, gathered first, and in one batched call."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gpu_parts.jobs import Outcome, Setting, write_json, write_text

PCIE5_X16_BYTES_PER_S = 50e9
"""What large one-way copies reach on PCIe 5 x16 (blog.vllm.ai 2026-01-08)."""

KIB_OF_A_PIECE = (4, 8, 16, 24, 28, 32, 64, 256, 2048)
REPEATS = 7


def measure_link(setting: Setting) -> Outcome:
    """Write ``profiles/link.json`` and a table: GB/s by bytes of a piece and by mechanism."""
    is_cuda = setting.device == "cuda"
    block = (8 << 20) if setting.is_small else (1 << 30)
    host = torch.empty(block, dtype=torch.uint8, pin_memory=is_cuda).fill_(7)
    device = torch.empty(block, dtype=torch.uint8, device=setting.device).fill_(3)
    large = {
        "to_device": block / _median_s(lambda: device.copy_(host, non_blocking=True), is_cuda),
        "to_host": block / _median_s(lambda: host.copy_(device, non_blocking=True), is_cuda),
    }
    rows = []
    for kib in KIB_OF_A_PIECE[:2] if setting.is_small else KIB_OF_A_PIECE:
        pieces = min(2000, block // (kib << 10))
        for name, copy in _mechanisms(host, device, kib << 10, pieces, is_cuda=is_cuda).items():
            row: dict[str, Any] = {"mechanism": name, "kib": kib, "pieces": pieces}
            try:
                row["bytes_per_s"] = pieces * (kib << 10) / _median_s(copy, is_cuda)
            except (ImportError, AttributeError, TypeError, RuntimeError, OSError) as problem:
                row["error"] = f"{type(problem).__name__}: {problem}"[:200]
            rows.append(row)
    found = {
        "block_bytes": block,
        "large_bytes_per_s": large,
        "small": rows,
        "limit_bytes_per_s": PCIE5_X16_BYTES_PER_S,
    }
    files = [write_json(setting.folder("profiles") / "link.json", found)]
    files.append(write_text(setting.folder("profiles") / "link.txt", _table(found)))
    down = large["to_device"] / 1e9
    headline = f"large copies {down:.1f} GB/s to the device, {large['to_host'] / 1e9:.1f} back"
    if is_cuda:
        headline += f"; {down * 1e9 / PCIE5_X16_BYTES_PER_S:.0%} of what PCIe 5 x16 gives"
    return Outcome(headline=headline, files=files)


def _mechanisms(
    host: torch.Tensor, device: torch.Tensor, size: int, pieces: int, *, is_cuda: bool
) -> dict[str, Callable[[], object]]:
    """Return what copies `pieces` scattered pieces of `size` bytes to the device, by name."""
    sources, targets = host[: pieces * size].view(pieces, size), device[: pieces * size].view(pieces, size)
    order = torch.from_numpy(np.random.default_rng(0).permutation(pieces))
    pairs = list(enumerate(order.tolist()))
    staging = torch.empty((pieces, size), dtype=torch.uint8, pin_memory=is_cuda)
    arrived = torch.empty_like(targets)

    def one_by_one() -> None:
        for target, source in pairs:
            targets[target].copy_(sources[source], non_blocking=True)

    def gathered() -> None:
        torch.index_select(sources, 0, order, out=staging)
        arrived.copy_(staging, non_blocking=True)

    found: dict[str, Callable[[], object]] = {"one by one": one_by_one, "gathered first": gathered}
    if is_cuda:
        found["batched call"] = lambda: _batched(targets, sources, order, size)
    return found


def _batched(targets: torch.Tensor, sources: torch.Tensor, order: torch.Tensor, size: int) -> None:
    """Copy with one `cudaMemcpyBatchAsync`, through the package cuda-bindings where it is installed."""
    from cuda.bindings import runtime  # noqa: PLC0415, optional: nothing of kvsim needs it

    attributes = runtime.cudaMemcpyAttributes()
    attributes.srcAccessOrder = runtime.cudaMemcpySrcAccessOrder.cudaMemcpySrcAccessOrderStream
    pieces = len(order)
    to = [targets.data_ptr() + place * size for place in range(pieces)]
    source = [sources.data_ptr() + place * size for place in order.tolist()]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    told = runtime.cudaMemcpyBatchAsync(to, source, [size] * pieces, pieces, [attributes], [0], 1, stream.cuda_stream)
    if int(told[0]) != 0:
        raise RuntimeError(f"cudaMemcpyBatchAsync: {told[0]}")
    torch.cuda.current_stream().wait_stream(stream)


def _median_s(work: Callable[[], object], is_cuda: bool) -> float:
    """Return the median wall time of `work` with the wait for the device; the first two calls warm up."""
    times_s = []
    for _ in range(REPEATS + 2):
        if is_cuda:
            torch.cuda.current_stream().synchronize()
        started_s = time.perf_counter()
        work()
        if is_cuda:
            torch.cuda.current_stream().synchronize()
        times_s.append(time.perf_counter() - started_s)
    return statistics.median(times_s[2:])


def _table(found: dict[str, Any]) -> str:
    names = list(dict.fromkeys(row["mechanism"] for row in found["small"]))
    lines = [
        "large blocks: "
        + ", ".join(f"{name} {rate / 1e9:.1f} GB/s" for name, rate in found["large_bytes_per_s"].items())
    ]
    lines.append(f"{'KiB of a piece':<16}" + "".join(f"{name:>16}" for name in names) + "   GB/s to the device")
    for kib in dict.fromkeys(row["kib"] for row in found["small"]):
        by_name = {row["mechanism"]: row for row in found["small"] if row["kib"] == kib}
        cells = [
            f"{by_name[name]['bytes_per_s'] / 1e9:.2f}" if "bytes_per_s" in by_name[name] else "error" for name in names
        ]
        lines.append(f"{kib:<16}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)
