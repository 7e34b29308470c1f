"""A profile of kind ``estimated``: any card, any shape that the kernels can be counted of."""

from __future__ import annotations

from typing import Literal

from kvsim.errors import ScenarioError
from kvsim.profile.cards.card import Card
from kvsim.profile.estimate import kernels
from kvsim.profile.estimate.assumptions import Assumptions, load_assumptions
from kvsim.profile.estimate.coefficients import Coefficients, load_coefficients
from kvsim.profile.estimate.copies import link_of
from kvsim.profile.estimate.hosts import Runtime, decision_costs, with_launches
from kvsim.profile.estimate.kernels import Formats, Weights, formats_of
from kvsim.profile.estimate.pricing import Price, Pricing, Work
from kvsim.profile.profile import Machine, Profile
from kvsim.profile.tables import CostTable
from kvsim.scenario.shapes import ModelShape, Quantisation

BATCHES = tuple(float(2**power) for power in range(9))
"""1 to 256 sequences."""
MANY_TOKENS = 2.0**22
"""Cached tokens of a batch up to which attention is priced: its time is linear in them."""
MANY_PAGES = 2.0**19
NEW_TOKENS = (1.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
CACHED_TOKENS = (0.0, 8192.0, 32768.0, 131072.0)
PAGE_TOKENS = (16, 32, 64)
QUANTISATIONS: dict[str, Quantisation] = {"int8": "8bit", "int4": "4bit"}


def estimate_profile(
    card: Card,
    shape: ModelShape,
    *,
    weights: Weights | None = None,
    kv: Literal["fp8"] | None = None,
    runtime: Runtime = "graph",
) -> Profile:
    """Return what the steps of `shape` cost on `card`, from its data sheet and coefficients fitted on other cards.

    Parameters
    ----------
    weights
        Number format of the layers' weights; None: the shape's dtype.
    kv
        Number format of the KV cache; None: the shape's dtype.
    runtime
        ``graph``: kernels launched as one graph; ``eager``: one by one from Python.

    Raises
    ------
    ScenarioError
        If the shape's dtype is none that the card or an estimate has a rate for.
    """
    coefficients, assumptions = load_coefficients(), load_assumptions()
    formats = formats_of(shape, weights, kv, has_fp8=card.fp8_flop_per_s is not None)
    pricing = Pricing(card=card, coefficients=coefficients)
    if card.rate_flop_per_s(formats.activations) is None:
        raise ScenarioError(
            f"card {card.name}: it multiplies no {formats.activations}; set model.dtype to "
            f"{'fp16' if formats.activations == 'bf16' else 'bf16'}"
        )
    devices = _segments(pricing, shape, formats, assumptions)
    return Profile(
        schema_version=1,
        name=_name(card, formats, kv, runtime),
        kind="estimated",
        notes=_notes(card, coefficients),
        device="cuda",
        synchronous=False,
        runtime=runtime,
        device_memory_bytes=card.usable_memory_bytes,
        page_tokens=PAGE_TOKENS,
        shape=shape,
        quantisation=QUANTISATIONS.get(formats.weights),
        machine=Machine(
            host="none: estimated, nothing was run",
            processor="",
            device=card.title,
            num_threads=0,
            os="",
            python="",
            versions={"aiconfigurator-core": coefficients.package.rpartition(" ")[2]},
            date=coefficients.date,
            command=coefficients.command,
        ),
        segments=with_launches(devices, runtime, coefficients, assumptions),
        sync_s=assumptions.sync.time_s,
        policies=decision_costs(assumptions),
        link=link_of(card, assumptions),
        prefill=_prefill(pricing, shape, formats),
        sources=_sources(card, assumptions, coefficients, runtime),
    )


def _segments(pricing: Pricing, shape: ModelShape, formats: Formats, assumptions: Assumptions) -> dict[str, CostTable]:
    top = assumptions.top_k
    top_k = Price(time_s=top.time_s, low_frac=top.low_frac, high_frac=top.high_frac)

    def scoring(pages: float) -> Work:
        return [kernels.moving(pages * 2 * shape.num_kv_heads * shape.head_dim, shape)]

    def input_of(batch: float) -> Work:
        return kernels.attention_input(batch, shape, formats)

    def output_of(batch: float) -> Work:
        return kernels.attention_output(batch, shape, formats)

    fitted = _fitted_source(pricing, "gemm", formats)
    return {
        "embed": pricing.by_batch(lambda batch: [kernels.embedding(batch, shape)], BATCHES, source=_ELEMENTWISE),
        "attention_input": pricing.by_batch(input_of, BATCHES, source=f"norm, QKV product, rotary, append. {fitted}"),
        "select": pricing.by_amount(
            lambda pages, _: [*scoring(pages), top_k], "pages", (0.0, MANY_PAGES), (BATCHES[0], BATCHES[-1]),
            source=f"scoring reads the minimum and maximum key of every page. {_ELEMENTWISE}; top-k: {top.source}",
        ),
        "speculate": pricing.by_amount(
            lambda pages, batch: [*kernels.speculation(batch, shape, formats), *scoring(pages)],
            "pages", (0.0, MANY_PAGES), BATCHES,
            source=f"assumption: the next layer's norm, query product, rotary and scoring, one after another. {fitted}",
        ),
        "attention": pricing.by_amount(
            lambda tokens, batch: [kernels.decode_attention(tokens, batch, shape, formats)],
            "tokens", (0.0, MANY_TOKENS), (BATCHES[0], BATCHES[-1]),
            source=_fitted_source(pricing, "decode_attention", formats),
        ),
        "attention_output": pricing.by_batch(
            output_of, BATCHES, source=f"output product, norm, MLP products, activation. {fitted}"
        ),
        "head": pricing.by_batch(
            lambda batch: kernels.head(batch, shape, formats), BATCHES, source=f"norm, LM head, sampling. {fitted}"
        ),
    }  # fmt: skip


def _prefill(pricing: Pricing, shape: ModelShape, formats: Formats) -> CostTable:
    def whole(new_tokens: float, cached_tokens: float) -> Work:
        layer = pricing.total([
            *kernels.attention_input(new_tokens, shape, formats),
            kernels.prefill_attention(new_tokens, cached_tokens, shape, formats),
            *kernels.attention_output(new_tokens, shape, formats),
        ])  # fmt: skip
        layers = Price(time_s=layer.time_s * shape.num_layers, low_frac=layer.low_frac, high_frac=layer.high_frac)
        return [layers, kernels.embedding(new_tokens, shape), *kernels.head(1.0, shape, formats)]

    source = (
        "the layers' products and attention over new and cached tokens, head for the last token. "
        "Attention was fitted without cached tokens; assumption: pairs of a new and a cached token cost the same. "
        + _fitted_source(pricing, "prefill_attention", formats)
    )
    return pricing.by_amount(whole, "tokens", NEW_TOKENS, CACHED_TOKENS, source=source)


_ELEMENTWISE = "kernels that move bytes: kind elementwise of kvsim/profile/estimate/coefficients.toml"


def _fitted_source(pricing: Pricing, kind: str, formats: Formats) -> str:
    return (
        f"estimated: kind {kind} ({formats.weights} weights) of kvsim/profile/estimate/coefficients.toml on the data "
        f"sheet of {pricing.card.title}"
    )


def _name(card: Card, formats: Formats, kv: str | None, runtime: str) -> str:
    return "-".join([card.name, formats.weights, *(["kv", kv] if kv else []), runtime, "estimated"])


def _notes(card: Card, coefficients: Coefficients) -> str:
    near = card.architecture in coefficients.architectures
    known = "" if near else " No card of its architecture was among those fitted: intervals are wider."
    return f"Estimated from a data sheet: see docs/estimates.md for its error.{known} {card.notes}".strip()


def _sources(card: Card, assumptions: Assumptions, coefficients: Coefficients, runtime: str) -> dict[str, str]:
    host = coefficients.graph_step if runtime == "graph" else coefficients.eager_layer
    memory = "cuda_memory_bytes" if card.cuda_memory_bytes else "memory_bytes"
    return {
        "device_memory_bytes": card.sources.get(memory, "the card's own file"),
        "sync_s": assumptions.sync.source,
        "runtime": host.source,
        "link.to_device.submit_s": assumptions.link.submit_source,
        "link.to_host.submit_s": assumptions.link.submit_source,
        "link.both_ways_slowdown_frac": assumptions.link.both_ways_source,
        "link.compute_slowdown_frac": assumptions.link.compute_source,
    }
