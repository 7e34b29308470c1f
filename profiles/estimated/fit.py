"""Fits the roofline coefficients that ship, and their errors on cards and shapes that were left out of the fit.

    pip download --no-deps aiconfigurator-core==0.12.0
    python -m zipfile -e aiconfigurator_core-0.12.0-*.whl WHEEL
    python profiles/estimated/fit.py WHEEL

The package (Apache-2.0, NVIDIA) is read and not copied: a few numbers a kind of kernel end up in
`kvsim/profile/estimate/coefficients.toml`. `docs/estimates.md` has the errors of whole decode steps.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from reported import host_times
from scipy.optimize import least_squares
from tables import (
    Rows,
    decode_attention_rows,
    digest_of,
    elementwise_rows,
    expert_rows,
    gemm_rows,
    prefill_attention_rows,
)

from kvsim.profile.cards.load import load_card
from kvsim.profile.estimate.coefficients import DATA, Coefficients, HostTime, Kind, Residuals
from kvsim.profile.estimate.roofline import Roofline

PACKAGE = "aiconfigurator-core 0.12.0"
DATE = "2026-11-28"
SHAPE_FOLDS = 10
START = {"overhead_s": 5e-6, "unit_s": 2e-8, "bandwidth_frac": 0.8, "rate_frac": 0.7}
SOFT_FRAC = 0.1
"""Errors beyond this share count linearly, not by their square: tables have outliers."""
SPAN = (0.05, 0.5, 0.95)

Read = Callable[[Path], Rows]
KINDS: dict[str, tuple[Read, str]] = {
    "gemm_bf16": (lambda folder: gemm_rows(folder, "bfloat16"), "gemm/vllm gemm_perf, bfloat16"),
    "gemm_fp8": (lambda folder: gemm_rows(folder, "fp8"), "gemm/vllm gemm_perf, fp8"),
    "decode_attention": (
        lambda folder: decode_attention_rows(folder, "bfloat16"), "attention/vllm generation_attention_perf, bfloat16"),
    "decode_attention_fp8": (
        lambda folder: decode_attention_rows(folder, "fp8"), "attention/vllm generation_attention_perf, fp8 cache"),
    "prefill_attention": (prefill_attention_rows, "attention/vllm context_attention_perf, bfloat16"),
    "elementwise": (elementwise_rows, "quantize/vllm scale_matrix_perf"),
    "experts_bf16": (lambda folder: expert_rows(folder, "bfloat16"), "moe/vllm moe_perf, bfloat16"),
    "experts_fp8": (lambda folder: expert_rows(folder, "fp8"), "moe/vllm moe_perf, fp8"),
    "experts_int4": (lambda folder: expert_rows(folder, "int4_wo"), "moe/vllm moe_perf, int4_wo"),
}  # fmt: skip
"""What is fitted, and the tables it is fitted on."""

PACKED: dict[str, tuple[tuple[str, ...], str]] = {
    "gemm_int8": (("gemm/trtllm/1.0.0/gemm_perf.parquet", "gemm/sglang/0.5.6.post2/gemm_perf.parquet"), "int8_wo"),
    "gemm_int4": (("gemm/trtllm/1.0.0/gemm_perf.parquet",), "int4_wo"),
}
"""Weights expanded on the way: bf16's coefficients on fewer bytes, judged on the few tables that there are."""

PACKED_READ_S = 20e-6
"""Packed products are judged where reading takes at least this long: the launches of those tables are not vLLM's."""

LIKE = {
    "gemm_fp8": "gemm_bf16",
    "elementwise": "gemm_bf16",
    "experts_fp8": "experts_bf16",
    "experts_int4": "experts_bf16",
}
"""Whose error on another vendor's card stands in where that card has no table of a kind."""


def main(folder: Path) -> None:
    """Fit every kind and write the coefficients."""
    kinds: dict[str, Kind] = {}
    for name, (read, tables) in KINDS.items():
        kinds[name] = fit_kind(read(folder), tables, kinds.get(LIKE.get(name, "")))
        report(name, kinds[name])
    for name, (paths, number_format) in PACKED.items():
        kinds[name] = packed_kind(gemm_rows(folder, number_format, paths), paths, kinds["gemm_bf16"])
        report(name, kinds[name])
    unknown = HostTime(time_s=1e-9, low_frac=0.0, high_frac=0.0, source="not fitted yet")
    coefficients = Coefficients(
        schema_version=1,
        package=PACKAGE,
        wheel_record_sha256=digest_of(folder),
        date=DATE,
        command="python profiles/estimated/fit.py WHEEL",
        architectures=tuple(sorted({load_card(card).architecture for card in fitted_cards(kinds["gemm_bf16"])})),
        graph_step=unknown,
        eager_layer=unknown,
        kinds=kinds,
    )
    graph_step, eager_layer = host_times(coefficients)
    write(coefficients.model_copy(update={"graph_step": graph_step, "eager_layer": eager_layer}))


def fitted_cards(kind: Kind) -> list[str]:
    """Return the cards whose rows a kind was fitted on."""
    return [card for card in kind.cards if load_card(card).vendor == "nvidia"]


def fit_kind(rows: Rows, tables: str, like: Kind | None) -> Kind:
    """Return the coefficients of one kind over the cards of NVIDIA, and its residuals by what was left out."""
    cards = np.unique(rows.card)
    own = np.isin(rows.card, [card for card in cards if load_card(card).vendor == "nvidia"])
    known = rows.where(own)
    roofline = fit(known)
    others = rows.where(~own)
    card_out = left_out(known, known.card)
    architecture_out = wider(left_out(known, np.array([generation(card) for card in known.card])), card_out)
    if others.time_s.size:
        vendor_out = quantiles(others, residuals(roofline, others))
    elif like is not None:
        vendor_out = like.vendor_out
    else:
        raise ValueError(f"{tables}: no card of another vendor, and no kind to stand in")
    return Kind(
        roofline=roofline,
        source=f"{PACKAGE}, systems/data/*/{tables}",
        num_rows=int(known.time_s.size),
        cards=tuple(cards.tolist()),
        card_out=card_out,
        architecture_out=architecture_out,
        vendor_out=wider(vendor_out, architecture_out),
        shape_out=left_out(known, folds(known.shape)),
    )


def packed_kind(rows: Rows, paths: tuple[str, ...], like: Kind) -> Kind:
    """Return bf16's coefficients with the residuals of tables of packed weights, which took no part in the fit."""
    memory_s, compute_s = rows.moved_bytes / rows.bandwidth_bytes_per_s, rows.flop / rows.rate_flop_per_s
    rows = rows.where((memory_s > PACKED_READ_S) & (memory_s > 2 * compute_s))
    seen = quantiles(rows, residuals(like.roofline, rows))
    return Kind(
        roofline=like.roofline,
        source=f"assumption: gemm_bf16 on the bytes of packed weights; errors on {PACKAGE}, {', '.join(paths)}",
        num_rows=int(rows.time_s.size),
        cards=tuple(np.unique(rows.card).tolist()),
        card_out=wider(seen, like.card_out),
        architecture_out=wider(seen, like.architecture_out),
        vendor_out=wider(seen, like.vendor_out),
        shape_out=wider(seen, like.shape_out),
    )


def wider(one: Residuals, other: Residuals) -> Residuals:
    """Return `one` with its span widened to hold the `other`'s: what is farther from the fit is never surer."""
    return one.model_copy(
        update={"low_frac": min(one.low_frac, other.low_frac), "high_frac": max(one.high_frac, other.high_frac)}
    )


def generation(card: str) -> str:
    """Return what is left out with a card: its architecture, the two of data-centre Blackwell as one."""
    architecture = load_card(card).architecture
    return "sm_100" if architecture == "sm_103" else architecture


def folds(shapes: Any) -> Any:
    """Return the fold of each row, all rows of a shape in one."""
    distinct, place = np.unique(shapes, return_inverse=True)
    return np.random.default_rng(0).permutation(distinct.size)[place] % SHAPE_FOLDS


def left_out(rows: Rows, group: Any) -> Residuals:
    """Return the residuals of each group of rows under a fit on all the others."""
    errors = np.empty(rows.time_s.size)
    for name in np.unique(group):
        out = group == name
        errors[out] = residuals(fit(rows.where(~out)), rows.where(out))
    return quantiles(rows, errors)


def fit(rows: Rows) -> Roofline:
    """Return the coefficients with the least error in proportion, each card weighing the same.

    What the rows say nothing of is left at the default: kernels without products have no rate, and only those that
    start parts apart have a time for a part.
    """
    weights = np.sqrt(card_weights(rows))
    names = ["overhead_s", "bandwidth_frac"]
    names += ["rate_frac"] if np.any(rows.flop > 0) else []
    names += ["unit_s"] if np.any(rows.units > 0) else []

    def errors(logs: Any) -> Any:
        return weights * np.log(times(roofline_of(names, np.exp(logs)), rows) / rows.time_s)

    start = np.log([START[name] for name in names])
    values = np.exp(least_squares(errors, start, loss="soft_l1", f_scale=SOFT_FRAC).x)
    return roofline_of(names, [float(f"{value:.4g}") for value in values])


def roofline_of(names: list[str], values: Any) -> Roofline:
    """Return a roofline of these numbers; the fit takes their logarithms, which keeps them above zero."""
    return Roofline.model_construct(**{"unit_s": 0.0, "rate_frac": 1.0} | dict(zip(names, values, strict=True)))


def times(roofline: Roofline, rows: Rows) -> Any:
    """Return the estimated seconds of `rows`."""
    rate_flop_per_s = np.where(rows.rate_flop_per_s > 0, rows.rate_flop_per_s, 1.0)
    return roofline.time_s(rows.moved_bytes, rows.flop, rows.bandwidth_bytes_per_s, rate_flop_per_s, units=rows.units)


def residuals(roofline: Roofline, rows: Rows) -> Any:
    """Return measured / estimated - 1."""
    return rows.time_s / times(roofline, rows) - 1


def card_weights(rows: Rows) -> Any:
    """Return weights of rows such that every card weighs the same; their mean is 1."""
    _, place, counts = np.unique(rows.card, return_inverse=True, return_counts=True)
    weights = 1 / counts[place]
    return weights / weights.mean()


def quantiles(rows: Rows, errors: Any) -> Residuals:
    """Return the span of residuals, every card weighing the same."""
    weights = card_weights(rows)
    low, middle, high = np.quantile(errors, SPAN, weights=weights, method="inverted_cdf")
    size = np.quantile(np.abs(errors), 0.5, weights=weights, method="inverted_cdf")
    return Residuals(
        low_frac=round(float(low), 4),
        median_frac=round(float(middle), 4),
        high_frac=round(float(high), 4),
        median_error_frac=round(float(size), 4),
    )


def report(name: str, kind: Kind) -> None:
    """Print one line about a kind."""
    roofline = kind.roofline
    spans = "  ".join(
        f"{what} {100 * part.low_frac:+.0f}..{100 * part.high_frac:+.0f}% (median {100 * part.median_error_frac:.1f}%)"
        for what, part in (("card out", kind.card_out), ("architecture out", kind.architecture_out),
                           ("vendor out", kind.vendor_out), ("shape out", kind.shape_out))
    )  # fmt: skip
    print(
        f"{name:21} {roofline.overhead_s * 1e6:5.1f} us + {roofline.unit_s * 1e9:4.1f} ns a unit  "
        f"{roofline.bandwidth_frac:.2f} of bandwidth  {roofline.rate_frac:.2f} of rate  {kind.num_rows} rows  {spans}"
    )


def write(coefficients: Coefficients) -> None:
    """Write the data file that ships."""
    DATA.write_text(
        "# Written by profiles/estimated/fit.py; see docs/estimates.md.\n\n"
        + tomli_w.dumps(coefficients.model_dump(mode="json")),
        encoding="utf-8",
    )
    print(f"wrote {DATA}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
