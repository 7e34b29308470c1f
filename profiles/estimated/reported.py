"""Compares public figures of whole steps with the estimate; prints the table of docs/estimates.md.

python profiles/estimated/reported.py
"""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvsim.profile.cards.load import load_card
from kvsim.profile.estimate import kernels
from kvsim.profile.estimate.coefficients import Coefficients, HostTime, load_coefficients
from kvsim.profile.estimate.kernels import formats_of
from kvsim.profile.estimate.pricing import Price, Pricing
from kvsim.scenario.shapes import ModelShape

DATA = Path(__file__).with_name("reported.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One public figure."""

    card: str
    model: str
    shape: ModelShape
    weights: str
    runtime: str
    batch: int
    context_tokens: int
    time_s: float
    use: str
    source: str


def steps() -> list[Step]:
    """Return the public figures."""
    tables = tomllib.loads(DATA.read_text(encoding="utf-8"))
    shapes = {name: _shape(sizes) for name, sizes in tables["shapes"].items()}
    rows = []
    for row in tables["steps"]["rows"]:
        values: dict[str, Any] = dict(zip(tables["steps"]["columns"], row, strict=True))
        time_s = values.pop("step_ms") * 1e-3
        rows.append(Step(**values, shape=shapes[values["model"]], time_s=time_s))
    return rows


def device_price(step: Step, coefficients: Coefficients) -> Price:
    """Return the estimated time of the step's kernels."""
    pricing = Pricing(card=load_card(step.card), coefficients=coefficients)
    shape, rows = step.shape, float(step.batch)
    formats = formats_of(
        shape,
        step.weights,  # type: ignore[arg-type]
        None,
        has_fp8=pricing.card.fp8_flop_per_s is not None,
    )
    layer = pricing.total([
        *kernels.attention_input(rows, shape, formats),
        kernels.decode_attention(rows * step.context_tokens, rows, shape, formats),
        *kernels.attention_output(rows, shape, formats),
    ])  # fmt: skip
    layers = Price(time_s=layer.time_s * shape.num_layers, low_frac=layer.low_frac, high_frac=layer.high_frac)
    return pricing.total([layers, kernels.embedding(rows, shape), *kernels.head(rows, shape, formats)])


def host_times(coefficients: Coefficients) -> tuple[HostTime, HostTime]:
    """Return the host time of a step as one graph, and of a layer launched eagerly, from the rows that are for it.

    What a model is too small to hide is the host's: of a graph, the step less its estimated kernels; of eager kernels,
    the step shared out over the layers.
    """
    graph_s, most_s = (
        [step.time_s - device_price(step, coefficients).time_s for step in steps() if step.use == use]
        for use in ("graph_step", "graph_step_most")
    )
    layer_s = [step.time_s / step.shape.num_layers for step in steps() if step.use == "eager_layer"]
    step_s, middle_s = statistics.median(graph_s), (min(layer_s) + max(layer_s)) / 2
    graph = HostTime(
        time_s=float(f"{step_s:.3g}"),
        low_frac=-1.0,
        high_frac=round(max(most_s) / step_s - 1, 2),
        source=f"a reported step less its estimated kernels: {_origin('graph_step')}. At most that of "
        f"{_origin('graph_step_most')}; at least nothing, where the engine schedules while the GPU runs",
    )
    eager = HostTime(
        time_s=float(f"{middle_s:.3g}"),
        low_frac=round(min(layer_s) / middle_s - 1, 2),
        high_frac=round(max(layer_s) / middle_s - 1, 2),
        source=f"a reported step by its layers, the middle of the least and the most: {_origin('eager_layer')}",
    )
    return graph, eager


def _origin(use: str) -> str:
    chosen = [step for step in steps() if step.use == use]
    sources = tomllib.loads(DATA.read_text(encoding="utf-8"))["sources"]
    names = ", ".join(f"{step.model.replace('_', '.')} on {step.card}" for step in chosen)
    return f"{names} ({'; '.join(dict.fromkeys(sources[step.source] for step in chosen))})"


def estimated(step: Step, coefficients: Coefficients) -> Price:
    """Return the estimated step: kernels alone, behind one launch, or under a host that launches them one by one."""
    device = device_price(step, coefficients)
    if step.runtime == "kernels":
        return device
    if step.runtime == "graph":
        host = coefficients.graph_step
        low_s = device.time_s * device.low_frac + host.time_s * host.low_frac
        high_s = device.time_s * device.high_frac + host.time_s * host.high_frac
        total_s = device.time_s + host.time_s
        return Price(time_s=total_s, low_frac=low_s / total_s, high_frac=high_s / total_s)
    host = coefficients.eager_layer
    host_s = host.time_s * step.shape.num_layers
    if device.time_s > host_s:
        return device
    return Price(time_s=host_s, low_frac=host.low_frac, high_frac=host.high_frac)


def lines(coefficients: Coefficients) -> Iterator[str]:
    """Yield the rows of a Markdown table."""
    yield "| card | model | weights | runtime | batch | context | reported ms | estimated ms (interval) | error |"
    yield "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for step in steps():
        if step.use != "check":
            continue
        price = estimated(step, coefficients)
        low_ms, high_ms = (price.time_s * (1 + frac) * 1e3 for frac in (price.low_frac, price.high_frac))
        inside = "" if low_ms <= step.time_s * 1e3 <= high_ms else " (outside)"
        yield (
            f"| {step.card} | {step.model.replace('_', '.')} | {step.weights} | {step.runtime} | {step.batch} "
            f"| {step.context_tokens:,} | {step.time_s * 1e3:.1f} | {price.time_s * 1e3:.1f} "
            f"({low_ms:.1f} to {high_ms:.1f}){inside} | {100 * (price.time_s / step.time_s - 1):+.0f}% |"
        )


def _shape(sizes: list[int]) -> ModelShape:
    layers, hidden, heads, kv_heads, head_dim, inner, vocab = sizes
    return ModelShape(
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=inner,
        vocab_size=vocab,
        tied_embeddings=False,
        dtype="bf16",
    )


if __name__ == "__main__":
    print("\n".join(lines(load_coefficients())))
