"""Reads the measured kernel tables of aiconfigurator-core: one frame of rows for each kind of kernel.

A row has what the kernel moves and computes, counted by `kvsim.profile.estimate.kernels` exactly as an estimate counts
it, and the seconds that it took. Rows that say nothing of a decode step are left out here, each for a stated reason.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from kvsim.profile.cards.card import Card
from kvsim.profile.cards.load import load_card
from kvsim.profile.estimate import kernels
from kvsim.profile.estimate.kernels import Formats, Kernel
from kvsim.scenario.shapes import ModelShape

SYSTEMS = {
    "a100-80gb": ("a100_sxm", "0.14.0"),
    "l40s": ("l40s", "0.24.0"),
    "rtx-pro-6000": ("rtx_pro_6000_server", "0.24.0"),
    "h100": ("h100_sxm", "0.24.0"),
    "h200": ("h200_sxm", "0.24.0"),
    "b200": ("b200_sxm", "0.24.0"),
    "b300": ("b300_sxm", "0.24.0"),
    "gb200": ("gb200", "0.24.0"),
    "gb300": ("gb300", "0.24.0"),
    "arc-pro-b60": ("b60", "0.26.0"),
}
"""Folder and vLLM version of each card with tables."""

L2_MIB = {
    "a100-80gb": 40, "l40s": 96, "rtx-pro-6000": 128, "h100": 50, "h200": 50,
    "b200": 126, "b300": 126, "gb200": 126, "gb300": 126, "arc-pro-b60": 18,
}  # fmt: skip
"""Second-level cache, from the vendors' papers. The tables repeat one kernel: what fits into it stays there.

In a decode step the weights of all layers pass between two uses, so rows that were read from it are no guide.
"""
ROTATED = 8
"""Copies of a weight that the GEMM benchmark goes round: on an L40S (96 MiB) times jump between 8 and 12 MiB."""
GEMM = "gemm/vllm/{version}/gemm_perf.parquet"
FEW_SECONDS = 1e-6
"""A KV cache that takes no longer than this to read: where it is read from does not matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of one kind: arrays of one length."""

    card: Any
    """Name of the card of each row."""
    shape: Any
    """What must not be in the fit when this row is predicted out of shape."""
    moved_bytes: Any
    flop: Any
    units: Any
    bandwidth_bytes_per_s: Any
    rate_flop_per_s: Any
    time_s: Any

    def where(self, keep: Any) -> Rows:
        """Return the rows that `keep` marks."""
        return Rows(**{name: getattr(self, name)[keep] for name in self.__slots__})


def digest_of(folder: Path) -> str:
    """Return a digest of the wheel's list of files with their digests (its RECORD)."""
    record = next(folder.glob("aiconfigurator_core-*.dist-info/RECORD"))
    return hashlib.sha256(record.read_bytes()).hexdigest()


def raw_table(folder: Path, card: str, path: str, columns: tuple[str, ...]) -> dict[str, Any] | None:
    """Return columns of one table of a card; None where the card has none."""
    system, version = SYSTEMS[card]
    file = folder / "aiconfigurator_core/systems/data" / system / path.format(version=version)
    if not file.exists():
        return None
    table = pq.read_table(file)
    present = [name for name in columns if name in table.column_names]
    return {name: table[name].to_numpy(zero_copy_only=False) for name in present}


def gemm_rows(folder: Path, number_format: str, paths: tuple[str, ...] = (GEMM,)) -> Rows:
    """Return products of at least 512 x 512 weights and up to 8,192 rows, weights not in the second-level cache."""
    weights = {"bfloat16": "bf16", "fp8": "fp8", "int8_wo": "int8", "int4_wo": "int4"}[number_format]
    parts = []
    for name, path in itertools.product(SYSTEMS, paths):
        table = raw_table(folder, name, path, ("gemm_dtype", "m", "n", "k", "latency"))
        card = load_card(name)
        if table is None or (weights == "fp8" and card.fp8_flop_per_s is None):
            continue
        m, n, k = (table[axis].astype(float) for axis in ("m", "n", "k"))
        kernel = kernels.product(m, n, k, _formats(weights, card))
        keep = (table["gemm_dtype"] == number_format) & (n >= 512) & (k >= 512) & (k <= 16_384) & (m <= 8192)
        keep &= n * k * kernels.WEIGHT_BYTES[weights] * ROTATED >= L2_MIB[name] * 2**20
        parts.append(_rows(card, kernel, table["latency"], n * 1e6 + k, keep))
    return _joined(parts)


def in_cache(moved_bytes: Any, card: str) -> Any:
    """Return whether the tables read keys and values of so many bytes from the second-level cache."""
    return moved_bytes <= 1.05 * L2_MIB[card] * 2**20


def decode_attention_rows(folder: Path, kv_format: str, *, is_cached: bool = False) -> Rows:
    """Return attention of one step over heads of 64 and 128, KV caches in memory or too small to matter.

    With `is_cached` the other ones, which the table read from the second-level cache: what a benchmark that repeats one
    kernel sees, and a decode step does not.
    """
    parts = []
    columns = ("batch_size", "num_heads", "num_key_value_heads", "head_dim", "isl", "step", "window_size",
               "kv_cache_dtype", "latency")  # fmt: skip
    for name in SYSTEMS:
        table = raw_table(folder, name, "attention/vllm/{version}/generation_attention_perf.parquet", columns)
        if table is None:
            continue
        card = load_card(name)
        heads, kv_heads, head_dim = (table[axis] for axis in ("num_heads", "num_key_value_heads", "head_dim"))
        moved_bytes = (1 if kv_format == "fp8" else 2) * 2.0 * kv_heads * head_dim * attended_tokens(table)
        keep = (table["kv_cache_dtype"] == kv_format) & (table.get("window_size", np.zeros(len(heads))) == 0)
        keep &= np.isin(head_dim, (64, 128)) & (heads <= 16 * kv_heads) & (table["batch_size"] <= 256)
        seconds = moved_bytes / card.memory_bandwidth_bytes_per_s
        cached = in_cache(moved_bytes, name)
        keep &= cached if is_cached else (seconds < FEW_SECONDS) | ~cached
        units = 1.0 * table["batch_size"] * kv_heads
        kernel = Kernel(kind="decode_attention", moved_bytes=moved_bytes, units=units)
        parts.append(_rows(card, kernel, table["latency"], heads * 1e6 + kv_heads * 1e3 + head_dim, keep))
    return _joined(parts)


def attended_tokens(table: dict[str, Any]) -> Any:
    """Return the cached tokens of the batch that a step attends to."""
    return table["batch_size"] * (table["isl"] + table["step"])


def prefill_attention_rows(folder: Path) -> Rows:
    """Return causal attention over whole prompts of at least 64 tokens, heads of 64 and 128, at least 8 of them."""
    parts = []
    columns = ("batch_size", "num_heads", "num_key_value_heads", "head_dim", "isl", "window_size", "kv_cache_dtype",
               "latency")  # fmt: skip
    for name in SYSTEMS:
        table = raw_table(folder, name, "attention/vllm/{version}/context_attention_perf.parquet", columns)
        if table is None:
            continue
        card = load_card(name)
        heads, kv_heads, head_dim = (table[axis].astype(float) for axis in columns[1:4])
        batch, tokens = table["batch_size"].astype(float), table["isl"].astype(float)
        shape = _shape_of(heads, kv_heads, head_dim)
        one = kernels.prefill_attention(tokens, 0.0, shape, _formats("bf16", card))
        kernel = Kernel(kind=one.kind, moved_bytes=one.moved_bytes * batch, flop=one.flop * batch)
        keep = (table["kv_cache_dtype"] == "bfloat16") & (table.get("window_size", np.zeros(len(heads))) == 0)
        keep &= np.isin(head_dim, (64, 128)) & (heads >= 8) & (heads <= 16 * kv_heads) & (batch <= 8) & (tokens >= 64)
        parts.append(_rows(card, kernel, table["latency"], heads * 1e6 + kv_heads * 1e3 + head_dim, keep))
    return _joined(parts)


def elementwise_rows(folder: Path) -> Rows:
    """Return conversions of a matrix from bf16 to fp8, which read two bytes a number and write one.

    Small ones, which show the floor, and those beyond the second-level cache, which show the bandwidth.
    """
    parts = []
    for name in SYSTEMS:
        table = raw_table(folder, name, "quantize/vllm/{version}/scale_matrix_perf.parquet", ("m", "k", "latency"))
        if table is None:
            continue
        card = load_card(name)
        moved_bytes = 3.0 * table["m"] * table["k"]
        keep = (table["k"] >= 512) & (table["k"] <= 16_384)
        keep &= (moved_bytes < 1e6) | (moved_bytes > 2 * L2_MIB[name] * 2**20)
        kernel = Kernel(kind="elementwise", moved_bytes=moved_bytes)
        parts.append(_rows(card, kernel, table["latency"], table["k"].astype(float), keep))
    return _joined(parts)


def expert_rows(folder: Path, number_format: str) -> Rows:
    """Return routed experts on one GPU, tokens routed with a mild skew, up to 512 tokens."""
    weights = {"bfloat16": "bf16", "fp8": "fp8", "int4_wo": "int4"}[number_format]
    columns = ("moe_dtype", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size",
               "moe_ep_size", "distribution", "latency")  # fmt: skip
    parts = []
    for name in SYSTEMS:
        table = raw_table(folder, name, "moe/vllm/{version}/moe_perf.parquet", columns)
        card = load_card(name)
        if table is None or (weights == "fp8" and card.fp8_flop_per_s is None):
            continue
        tokens, hidden, inner, topk, num_experts = (table[axis].astype(float) for axis in columns[1:6])
        inner = inner / table["moe_tp_size"]
        formats = _formats(weights, card)
        kernel = kernels.experts(tokens, num_experts, topk, inner, hidden, formats)
        keep = (table["moe_dtype"] == number_format) & (table["moe_ep_size"] == 1) & (tokens <= 512)
        keep &= table["distribution"] == "power_law_1.01"
        parts.append(_rows(card, kernel, table["latency"], hidden * 1e6 + inner * 1e3 + num_experts + topk / 100, keep))
    return _joined(parts)


def _formats(weights: str, card: Card) -> Formats:
    return Formats(
        weights=weights,  # type: ignore[arg-type]
        activations="bf16",
        kv_bytes=2,
        has_fp8=card.fp8_flop_per_s is not None,
    )


def _shape_of(heads: Any, kv_heads: Any, head_dim: Any) -> ModelShape:
    """Return a shape whose attention has these (arrays of) sizes; nothing else of it is read."""
    return ModelShape.model_construct(  # type: ignore[call-arg]
        num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim
    )


def _rows(card: Card, kernel: Kernel, latency_ms: Any, shape: Any, keep: Any) -> Rows:
    rate_flop_per_s = card.rate_flop_per_s(kernel.number_format) or 0.0
    size = len(latency_ms)
    return Rows(
        card=np.full(size, card.name),
        shape=shape,
        moved_bytes=kernel.moved_bytes,
        flop=np.broadcast_to(kernel.flop, size),
        units=np.broadcast_to(kernel.units, size),
        bandwidth_bytes_per_s=np.full(size, float(card.memory_bandwidth_bytes_per_s)),
        rate_flop_per_s=np.full(size, rate_flop_per_s),
        time_s=latency_ms * 1e-3,
    ).where(np.asarray(keep, dtype=bool) & (latency_ms > 0))


def _joined(parts: list[Rows]) -> Rows:
    if not parts:
        sys.exit("no table of a kind that is fitted: is the folder the unpacked wheel of aiconfigurator-core 0.12.0?")
    return Rows(**{name: np.concatenate([getattr(rows, name) for rows in parts]) for name in Rows.__slots__})
