"""Whole decode steps put together from kernels, as measured and as estimated, each card left out of the fit in turn.

    python profiles/estimated/steps.py WHEEL

Prints the tables of docs/estimates.md. Only kernels that the tables have are added up: products and attention. A
product between two rows of a table is taken linearly between them.

The tables repeat one kernel, so that keys and values which fit the second-level cache were read from it. The estimate
of such a step reads them from there too, at a rate fitted on the rows of that kind, again without the card. A profile
always reads them from memory, as a decode step does: its error on the same rows stands in a column of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fit import fit, generation
from tables import GEMM, SYSTEMS, Rows, attended_tokens, decode_attention_rows, gemm_rows, in_cache, raw_table

from kvsim.profile.cards.load import load_card
from kvsim.profile.estimate import kernels
from kvsim.profile.estimate.coefficients import load_coefficients
from kvsim.profile.estimate.kernels import Kernel, formats_of
from kvsim.profile.estimate.roofline import Roofline
from kvsim.scenario.shapes import SHAPES, ModelShape

MODELS = ("llama-3.2-1b", "llama-3.2-3b", "llama-3-8b", "llama-3-70b")
BATCHES = (1, 4, 16, 64)
CONTEXTS = (1024, 4096, 16_384, 65_536)
CACHED = "decode_attention, cached"
"""Attention whose keys and values came from the second-level cache: part of this check and of no profile."""
ATTENTION = "attention/vllm/{version}/generation_attention_perf.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One decode step: seconds from the tables, from the estimate and from bytes over bandwidth alone."""

    card: str
    model: str
    measured_s: float
    estimated_s: float
    low_s: float
    high_s: float
    """The interval that a profile would give."""
    naive_s: float
    profile_s: float
    """The estimate of a profile, which reads keys and values from memory."""
    cached: bool
    """Whether the table read a layer's keys and values from the second-level cache."""


def main(folder: Path) -> None:
    """Print both tables."""
    rows = {
        "gemm_bf16": gemm_rows(folder, "bfloat16"),
        "decode_attention": decode_attention_rows(folder, "bfloat16"),
        CACHED: decode_attention_rows(folder, "bfloat16", is_cached=True),
    }
    for title, group_of in (("card", lambda card: card), ("architecture", generation)):
        taken = [step for card in SYSTEMS for step in steps(folder, card, rows, group_of)]
        print(f"\n{title} left out\n")
        print("\n".join(lines(taken)))


def steps(folder: Path, card: str, rows: dict[str, Rows], group_of: Callable[[str], str]) -> Iterator[Step]:
    """Yield the steps on `card` under fits on the cards of NVIDIA outside its group."""
    others = [other for other in SYSTEMS if group_of(other) != group_of(card) and load_card(other).vendor == "nvidia"]
    fits = {kind: fit(table.where(np.isin(table.card, others))) for kind, table in rows.items()}
    for model in MODELS:
        for batch in BATCHES:
            for context in CONTEXTS:
                step = step_of(folder, card, model, batch, context, fits)
                if step is not None:
                    yield step


def step_of(folder: Path, card: str, model: str, batch: int, context: int, fits: dict[str, Roofline]) -> Step | None:
    """Return one step; None where the tables of the card have no such attention."""
    shape = SHAPES[model]
    attention_s = measured_attention(folder, card).get(
        (batch, shape.num_heads, shape.num_kv_heads, shape.head_dim, batch * context)
    )
    if attention_s is None:
        return None
    measured_s = shape.num_layers * attention_s
    for width, depth, count in products(shape):
        measured_s += count * measured_product(folder, card, batch)(width, depth)
    estimated_s = profile_s = naive_s = low_s = high_s = 0.0
    coefficients, sheet = load_coefficients(), load_card(card)
    bandwidth, rate = sheet.memory_bandwidth_bytes_per_s, sheet.rate_flop_per_s("bf16")
    cached = False
    for kernel, count in work(shape, batch, context):
        kind = kernel.kind
        if kind == "decode_attention" and in_cache(kernel.moved_bytes, card):
            kind, cached = CACHED, True
        time_s, from_memory_s = (
            count * fits[which].time_s(kernel.moved_bytes, kernel.flop, bandwidth, rate, units=kernel.units)
            for which in (kind, kernel.kind)
        )
        span = coefficients.kinds[kernel.kind].residuals_for(sheet, coefficients.architectures)
        estimated_s += time_s
        profile_s += from_memory_s
        low_s += time_s * (1 + span.low_frac)
        high_s += time_s * (1 + span.high_frac)
        naive_s += count * kernel.moved_bytes / bandwidth
    return Step(
        card=card,
        model=model,
        measured_s=measured_s,
        estimated_s=estimated_s,
        low_s=low_s,
        high_s=high_s,
        naive_s=naive_s,
        profile_s=profile_s,
        cached=cached,
    )


def products(shape: ModelShape) -> list[tuple[int, int, int]]:
    """Return the products of a step: width, depth, how many."""
    query, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    hidden, inner, layers = shape.hidden_size, shape.intermediate_size, shape.num_layers
    return [
        (query + 2 * kv, hidden, layers),
        (hidden, query, layers),
        (2 * inner, hidden, layers),
        (hidden, inner, layers),
        (shape.vocab_size, hidden, 1),
    ]


def work(shape: ModelShape, batch: int, context: int) -> Iterator[tuple[Kernel, int]]:
    """Yield the same products and attention as kernels, and how many."""
    formats = formats_of(shape, None, None, has_fp8=False)
    for width, depth, count in products(shape):
        yield kernels.product(batch, width, depth, formats), count
    yield kernels.decode_attention(batch * context, batch, shape, formats), shape.num_layers


@cache
def measured_attention(folder: Path, card: str) -> dict[tuple[int, ...], float]:
    """Return seconds by batch, heads, KV heads, size of a head, and attended tokens (context times batch)."""
    columns = ("batch_size", "num_heads", "num_key_value_heads", "head_dim")
    table = raw_table(folder, card, ATTENTION, (*columns, "isl", "step", "window_size", "kv_cache_dtype", "latency"))
    assert table is not None
    keep = (table["kv_cache_dtype"] == "bfloat16") & (table.get("window_size", np.zeros(len(table["step"]))) == 0)
    keys = zip(*(table[name][keep].tolist() for name in columns), attended_tokens(table)[keep].tolist(), strict=True)
    return dict(zip(keys, (table["latency"][keep] * 1e-3).tolist(), strict=True))


@cache
def measured_product(folder: Path, card: str, rows: int) -> Callable[[int, int], float]:
    """Return the measured seconds of products of `rows` rows, linear in width and depth between rows of the table."""
    table = raw_table(folder, card, GEMM, ("gemm_dtype", "m", "n", "k", "latency"))
    assert table is not None
    keep = (table["gemm_dtype"] == "bfloat16") & (table["m"] == rows)
    seconds: dict[tuple[int, int], list[float]] = {}
    for width, depth, latency in zip(table["n"][keep], table["k"][keep], table["latency"][keep], strict=True):
        seconds.setdefault((int(width), int(depth)), []).append(latency * 1e-3)
    widths, depths = (sorted({key[axis] for key in seconds}) for axis in (0, 1))

    def at(width: int, depth: int) -> float:
        return sum(
            width_share * depth_share * float(np.median(seconds[near_width, near_depth]))
            for near_width, width_share in _between(widths, width)
            for near_depth, depth_share in _between(depths, depth)
        )

    return at


def _between(grid: list[int], value: int) -> list[tuple[int, float]]:
    """Return the neighbours of `value` with their shares; beyond the last, time in proportion."""
    if value > grid[-1]:
        return [(grid[-1], value / grid[-1])]
    place = int(np.searchsorted(grid, value))
    if grid[place] == value:
        return [(value, 1.0)]
    left, right = grid[place - 1], grid[place]
    share = (value - left) / (right - left)
    return [(left, 1 - share), (right, share)]


def lines(taken: list[Step]) -> Iterator[str]:
    """Yield the rows of a Markdown table, a card each and all cards of NVIDIA at the end."""
    yield (
        "| card | steps | of them KV cached | median error | worst | worst, KV from memory | in the interval "
        "| bytes / bandwidth: median | worst |"
    )
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for card in SYSTEMS:
        yield _line(card, [step for step in taken if step.card == card])
    nvidia = [step for step in taken if load_card(step.card).vendor == "nvidia"]
    yield _line("all of NVIDIA", nvidia)
    cached = _errors([step for step in nvidia if step.cached], "profile_s")
    yield ""
    yield f"A profile, on the cached steps: median error {_median(cached)}, worst {_signed(_worst(cached))}"


def _line(name: str, taken: list[Step]) -> str:
    estimate, naive = _errors(taken, "estimated_s"), _errors(taken, "naive_s")
    cached = np.array([step.cached for step in taken])
    inside = np.mean([step.low_s <= step.measured_s <= step.high_s for step in taken])
    cells = [
        name, str(len(taken)), str(cached.sum()),
        _median(estimate), _signed(_worst(estimate)), _signed(_worst(estimate[~cached])), f"{100 * inside:.0f}%",
        _median(naive), _signed(_worst(naive)),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _errors(taken: list[Step], which: str) -> Any:
    return np.array([getattr(step, which) / step.measured_s - 1 for step in taken])


def _median(errors: Any) -> str:
    return f"{100 * float(np.median(np.abs(errors))):.1f}%"


def _signed(error_frac: float) -> str:
    return f"{100 * error_frac:+.0f}%"


def _worst(errors: Any) -> float:
    return float(errors[np.argmax(np.abs(errors))])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
