"""Make `h200-llama-3-8b-published.toml` from public kernel tables, so that every number in it can be made again.

    pip download --no-deps aiconfigurator-core==0.12.0
    python profiles/published/make_h200.py aiconfigurator_core-0.12.0-*.whl

The package (Apache-2.0, NVIDIA) is read and not copied: only the rows that one model shape needs end up in the
profile. `docs/profiles.md` lists where each number is from and what such a profile cannot say.
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow.parquet as pq
from h200_sources import (
    ATTENTION_OF,
    ATTENTION_SOURCE,
    DECISION_SOURCE,
    EMBED_SOURCE,
    ENGINE,
    GEMM_OF,
    HEAD_SOURCE,
    INPUT_SOURCE,
    NOTES,
    OTHER_ENGINES,
    OUTPUT_SOURCE,
    RESIDENT_SOURCE,
    SELECT_SOURCE,
    SOURCES,
    SPECULATE_SOURCE,
    STREAM_SOURCE,
    SYSTEMS,
    TO_DEVICE_SOURCE,
    TO_HOST_SOURCE,
)
from scipy.optimize import isotonic_regression

from kvsim.profile.estimate.assumptions import load_assumptions
from kvsim.profile.estimate.coefficients import load_coefficients
from kvsim.profile.profile import SCHEMA_VERSION, Link, LinkCost, Machine, Profile, SegmentCost, write_profile
from kvsim.profile.tables import CostTable
from kvsim.scenario.shapes import SHAPES

WHEEL_SHA256 = "aadc4aad0a00bf8a61c477c62bef43de479849c3aa0b1c3078068e08309eccc4"

SHAPE = SHAPES["llama-3-8b"]
BATCHES = (1, 2, 4, 8, 16, 32, 64)
ATTENDED_TOKENS = tuple(2**power for power in range(4, 20))
DATE = "2026-11-21"

COPY_GB_PER_S = {
    4: (6.8, 4.0, 3.8),
    8: (6.8, 5.2, 5.3),
    16: (7.1, 6.3, 6.3),
    24: (25.8, 6.7, 6.9),
    28: (27.5, 39.9, 44.1),
    64: (38.8, 51.4, 51.8),
}
"""GB/s of one batched copy to the device by KiB of a piece, for `COPY_PIECES` pieces: vllm PR 42212, H100."""
COPY_PIECES = (10_000, 50_000, 100_000)
LARGE_KIB, LARGE_GB_PER_S = 2048, 50.0
TO_HOST_GB_PER_S = 52.77
CALL_S = 2.3e-6
TOP_K_S = 10e-6

Spread: TypeAlias = tuple[float, float]
"""How far a time may be off, as 5th and 95th percentile of measured / table - 1."""
_ELEMENTWISE = load_coefficients().kinds["elementwise"].card_out
RULE: Spread = (_ELEMENTWISE.low_frac, _ELEMENTWISE.high_frac)
"""Of a rule for kernels that move bytes on a card that it was not fitted on: docs/estimates.md."""
ASSUMED = load_assumptions()
"""The intervals of decisions, copies and the top-k, which no table of kernels has: docs/estimates.md."""
TOP_K: Spread = (ASSUMED.top_k.low_frac, ASSUMED.top_k.high_frac)
COPIES: Spread = (ASSUMED.copy_pieces.low_frac, ASSUMED.copy_pieces.high_frac)
DECISIONS: Spread = (ASSUMED.decide.low_frac, ASSUMED.decide.high_frac)


def main(wheel: Path, target: Path) -> None:
    """Read the tables in `wheel` and write the profile to `target`."""
    content = wheel.read_bytes()
    if hashlib.sha256(content).hexdigest() != WHEEL_SHA256:
        sys.exit(f"{wheel}: not the wheel that this script was written for (sha256 {WHEEL_SHA256})")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        system = archive.read(SYSTEMS + "h200_sxm.yaml").decode()
        attention = [_rows(archive, ATTENTION_OF.format(engine)) for engine in (ENGINE, *OTHER_ENGINES)]
        gemm = [_rows(archive, GEMM_OF.format(engine)) for engine in (ENGINE, *OTHER_ENGINES)]
    kernels = SmallKernels(system)
    write_profile(make_profile(attention, gemm, kernels, _number(system, "mem_capacity")), target)
    print(f"wrote {target}")


class SmallKernels:
    """Time of a kernel that only moves bytes: the package's own rule, ``bytes / (0.8 * bandwidth) + 3 us``."""

    def __init__(self, system: str) -> None:
        self.floor_s = _number(system, "mem_empirical_constant_latency")
        self.bytes_per_s = _number(system, "mem_bw") * _number(system, "mem_bw_empirical_scaling_factor")

    def __call__(self, numbers: float) -> float:
        """Return the seconds to move `numbers` of the shape's dtype."""
        return self.floor_s + numbers * SHAPE.dtype_bytes / self.bytes_per_s


def make_profile(attention: Sequence[Any], gemm: Sequence[Any], kernels: SmallKernels, memory_bytes: float) -> Profile:
    """Return the profile of the rows of the first engine, with intervals that hold the others."""
    return Profile(
        schema_version=SCHEMA_VERSION,
        name="h200-llama-3-8b-published",
        kind="published",
        notes=NOTES,
        device="cuda",
        synchronous=False,
        runtime="graph",
        device_memory_bytes=int(memory_bytes),
        page_tokens=(16, 32, 64),
        shape=SHAPE,
        machine=Machine(
            host="none: put together from public tables, nothing was run",
            processor="",
            device="NVIDIA H200 SXM (kernels), H100 SXM (copies)",
            num_threads=0,
            os="",
            python="",
            versions={"aiconfigurator-core": "0.12.0", "vllm": "0.24.0"},
            date=DATE,
            command="python profiles/published/make_h200.py aiconfigurator_core-0.12.0-*.whl",
        ),
        segments={
            name: SegmentCost(device=table) for name, table in _segments(Gemms(gemm), attention, kernels).items()
        },
        sync_s=15e-6,
        policies={
            "resident": _constant(0.0, RESIDENT_SOURCE),
            "stream": _decision(35e-6, 0.027e-6, STREAM_SOURCE),
            "*": _decision(25e-6, 0.2e-6, DECISION_SOURCE),
        },
        link=Link(
            emulated=False,
            issue="stream",
            to_device=LinkCost(transfer=_to_device(), submit_s=CALL_S, mechanism="cuMemcpyBatchAsync"),
            to_host=LinkCost(transfer=_to_host(), submit_s=CALL_S, mechanism="cuMemcpyBatchAsync"),
            both_ways_slowdown_frac=round(LARGE_GB_PER_S / (83.4 / 2) - 1, 4),
            compute_slowdown_frac=0.0,
        ),
        sources=SOURCES,
    )


def _segments(gemms: Gemms, attention: Sequence[Any], kernels: SmallKernels) -> dict[str, CostTable]:
    hidden, inner = SHAPE.hidden_size, SHAPE.intermediate_size
    kv = SHAPE.num_kv_heads * SHAPE.head_dim
    query = SHAPE.num_heads * SHAPE.head_dim
    batch = np.array(BATCHES, dtype=float)
    norm_s = kernels(4 * hidden * batch)
    rotary_s = kernels(2 * (query + kv) * batch)
    append_s = kernels(4 * kv * batch)
    gate_s = kernels(3 * inner * batch)
    sample_s = kernels(SHAPE.vocab_size * batch)
    qkv_s, query_s = gemms.at(query + 2 * kv, hidden), gemms.at(query, hidden)
    mlp_s = gemms.between_n(2 * inner, hidden, 16_384, 51_200) + gemms.between_k(hidden, inner, 12_288, 16_384)
    head_s = gemms.at(65_536, hidden) * (SHAPE.vocab_size / 65_536)
    page_s = SHAPE.summary_bytes(1) / kernels.bytes_per_s
    last_page = 2**19
    return {
        "embed": _by_batch([(kernels(2 * hidden * batch), RULE)], EMBED_SOURCE),
        "attention_input": _by_batch([(qkv_s, gemms.spread), (norm_s + rotary_s + append_s, RULE)], INPUT_SOURCE),
        "select": CostTable(
            amount="pages",
            amounts=(0.0, float(last_page)),
            columns_are="sequences",
            columns=tuple(map(float, BATCHES)),
            time_s=tuple((_rounded(kernels.floor_s + TOP_K_S + pages * page_s),) * 7 for pages in (0, last_page)),
            **_interval([(kernels.floor_s, RULE), (TOP_K_S, TOP_K)]),
            source=SELECT_SOURCE,
        ),
        "speculate": _speculate(
            [(query_s, gemms.spread), (norm_s + kernels(2 * query * batch), RULE)], kernels.floor_s, page_s
        ),
        "attention": _attention(attention),
        "attention_output": _by_batch([(query_s + mlp_s, gemms.spread), (norm_s + gate_s, RULE)], OUTPUT_SOURCE),
        "head": _by_batch([(head_s, gemms.spread), (norm_s + sample_s, RULE)], HEAD_SOURCE),
    }


def _interval(parts: Sequence[tuple[Any, Spread]]) -> dict[str, float]:
    """Return the interval of a sum: the mean of its parts', weighted by their times at batch 1."""
    times_s = [float(np.atleast_1d(time_s)[0]) for time_s, _ in parts]
    low, high = (
        round(sum(time_s * spread[end] for time_s, (_, spread) in zip(times_s, parts, strict=True)) / sum(times_s), 4)
        for end in range(2)
    )
    return {"residual_low_frac": low, "residual_high_frac": high}


def _speculate(parts: Sequence[tuple[Any, Spread]], floor_s: float, page_s: float) -> CostTable:
    """Return the next layer's norm, query and rotary for each of `BATCHES`, and the scoring of its pages."""
    last_page, query_s = 2**19, sum(time_s for time_s, _ in parts)
    return CostTable(
        amount="pages",
        amounts=(0.0, float(last_page)),
        columns_are="sequences",
        columns=tuple(map(float, BATCHES)),
        time_s=tuple(tuple(map(_rounded, query_s + floor_s + pages * page_s)) for pages in (0, last_page)),
        **_interval([*parts, (floor_s, RULE)]),
        source=SPECULATE_SOURCE,
    )


class Gemms:
    """The bf16 GEMM rows: seconds over `BATCHES`, made monotone in the batch over all rows up to 64."""

    def __init__(self, engines: Sequence[Any]) -> None:
        self._engines = []
        for rows in engines:
            keep = (rows["gemm_dtype"] == "bfloat16") & (rows["m"] <= BATCHES[-1])
            self._engines.append({name: column[keep] for name, column in rows.items()})
        self._residuals: list[list[float]] = [[] for _ in engines]

    @property
    def spread(self) -> Spread:
        """How far the rows of every engine lie from the first one's made monotone, of all products asked for so far."""
        return _spread(self._residuals)

    def at(self, n: int, k: int) -> Any:
        """Return the seconds of an [m, k] x [k, n] product at each of `BATCHES`."""
        of_engines = [_gemm_rows(rows, n, k) for rows in self._engines]
        m, raw_s = of_engines[0]
        time_s = isotonic_regression(raw_s).x
        for residuals, (own_m, own_s) in zip(self._residuals, of_engines, strict=True):
            shared = np.isin(own_m, m)
            residuals += (own_s[shared] / time_s[np.searchsorted(m, own_m[shared])] - 1).tolist()
        return time_s[np.searchsorted(m, BATCHES)]

    def between_n(self, n: int, k: int, low: int, high: int) -> Any:
        """Return the same for an `n` between two that were measured, linear in n."""
        low_s, high_s = self.at(low, k), self.at(high, k)
        return low_s + (n - low) / (high - low) * (high_s - low_s)

    def between_k(self, n: int, k: int, low: int, high: int) -> Any:
        """Return the same for a `k` between two that were measured, linear in k."""
        low_s, high_s = self.at(n, low), self.at(n, high)
        return low_s + (k - low) / (high - low) * (high_s - low_s)


def _gemm_rows(rows: Any, n: int, k: int) -> tuple[Any, Any]:
    keep = (rows["n"] == n) & (rows["k"] == k)
    order = np.argsort(rows["m"][keep])
    return rows["m"][keep][order], rows["latency"][keep][order] * 1e-3


def _attention(engines: Sequence[Any]) -> CostTable:
    rows = engines[0]
    columns: list[Any] = []
    residuals: list[list[float]] = [[] for _ in engines]
    for batch in BATCHES:
        tokens, time_s = _attention_rows(rows, batch, SHAPE.num_heads)
        if batch == 1:  # the longest context has no row with 32 query heads; with 16 the KV cache is the same
            more, more_s = _attention_rows(rows, batch, 16)
            tokens = np.append(tokens, more[more > tokens[-1]])
            time_s = np.append(time_s, more_s[more_s.size - (tokens.size - time_s.size) :])
        time_s = isotonic_regression(time_s).x
        for engine, own in zip(engines, residuals, strict=True):
            own_tokens, own_s = _attention_rows(engine, batch, SHAPE.num_heads)
            shared = np.isin(own_tokens, tokens)
            own += (own_s[shared] / time_s[np.searchsorted(tokens, own_tokens[shared])] - 1).tolist()
        slope = (time_s[-1] - time_s[-2]) / (tokens[-1] - tokens[-2])
        inside = np.interp(ATTENDED_TOKENS, tokens, time_s)
        beyond = np.maximum(np.array(ATTENDED_TOKENS) - tokens[-1], 0) * slope
        columns.append(inside + beyond)
    return CostTable(
        amount="tokens",
        amounts=tuple(map(float, ATTENDED_TOKENS)),
        columns_are="sequences",
        columns=tuple(map(float, BATCHES)),
        time_s=tuple(tuple(map(_rounded, row)) for row in np.array(columns).T),
        **_interval([(1.0, _spread(residuals))]),
        source=ATTENTION_SOURCE,
    )


def _attention_rows(rows: Any, batch: int, num_heads: int) -> tuple[Any, Any]:
    keep = (rows["batch_size"] == batch) & (rows["num_heads"] == num_heads) & (rows["window_size"] == 0)
    keep &= (rows["num_key_value_heads"] == SHAPE.num_kv_heads) & (rows["head_dim"] == SHAPE.head_dim)
    keep &= rows["kv_cache_dtype"] == "bfloat16"
    order = np.argsort(rows["step"][keep])
    return batch * (rows["step"][keep][order] + 1), rows["latency"][keep][order] * 1e-3


def _to_device() -> CostTable:
    columns = {}
    for kib, rates in COPY_GB_PER_S.items():
        times = [count * kib * 1024 / (rate * 1e9) for count, rate in zip(COPY_PIECES, rates, strict=True)]
        columns[kib * 1024] = [CALL_S + times[0] / COPY_PIECES[0], *times]
    columns[LARGE_KIB * 1024] = [
        CALL_S * (count == 1) + count * LARGE_KIB * 1024 / (LARGE_GB_PER_S * 1e9) for count in (1, *COPY_PIECES)
    ]
    return _copies((1, *COPY_PIECES), columns, TO_DEVICE_SOURCE)


def _to_host() -> CostTable:
    columns = {
        kib * 1024: [
            CALL_S + count * (_descriptor_s() + kib * 1024 / (TO_HOST_GB_PER_S * 1e9)) for count in (1, COPY_PIECES[0])
        ]
        for kib in (4, 64, LARGE_KIB)
    }
    return _copies((1, COPY_PIECES[0]), columns, TO_HOST_SOURCE)


def _descriptor_s() -> float:
    """Return what a piece of 64 KiB takes among 10,000 beyond its time among 100,000: handing over its descriptor."""
    few, _, many = COPY_GB_PER_S[64]
    return 64 * 1024 * (1 / few - 1 / many) * 1e-9


def _copies(pieces: tuple[int, ...], columns: dict[int, list[float]], source: str) -> CostTable:
    return CostTable(
        amount="pieces",
        amounts=tuple(map(float, pieces)),
        columns_are="piece_bytes",
        columns=tuple(map(float, columns)),
        time_s=tuple(tuple(map(_rounded, row)) for row in zip(*columns.values(), strict=True)),
        **_interval([(1.0, COPIES)]),
        source=source,
    )


def _decision(fixed_s: float, page_s: float, source: str) -> CostTable:
    many = 10_000.0
    times = ((_rounded(fixed_s),), (_rounded(fixed_s + many * page_s),))
    return CostTable(amount="pages", amounts=(0.0, many), time_s=times, **_interval([(1.0, DECISIONS)]), source=source)


def _constant(time_s: float, source: str) -> CostTable:
    return CostTable(amount="none", amounts=(0.0,), time_s=((time_s,),), source=source)


def _by_batch(parts: Sequence[tuple[Any, Spread]], source: str) -> CostTable:
    return CostTable(
        amount="none",
        amounts=(0.0,),
        columns_are="sequences",
        columns=tuple(map(float, BATCHES)),
        time_s=(tuple(map(_rounded, sum(time_s for time_s, _ in parts))),),
        **_interval(parts),
        source=source,
    )


def _spread(residuals_of_engines: Sequence[Sequence[float]]) -> Spread:
    """Return the span that holds that of every engine, from its 5th to its 95th percentile."""
    spans = [np.quantile(residuals, (0.05, 0.95)) for residuals in residuals_of_engines]
    return float(min(low for low, _ in spans)), float(max(high for _, high in spans))


def _rounded(time_s: float) -> float:
    return round(float(time_s), 10)


def _rows(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    table = pq.read_table(io.BytesIO(archive.read(SYSTEMS + name)))
    return {column: np.array(table[column].to_pylist()) for column in table.column_names}


def _number(system: str, key: str) -> float:
    found = re.search(rf"^\s*{key}:\s*([0-9.e+-]+)", system, flags=re.MULTILINE)
    if found is None:
        sys.exit(f"{key}: not in h200_sxm.yaml")
    return float(found[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).resolve().parent.parent / "h200-llama-3-8b-published.toml")
