"""A profile of kind ``estimated``: any card, any shape that the kernels can be counted of."""

from __future__ import annotations

from kvsim.errors import ScenarioError
from kvsim.profile.cards.card import Card
from kvsim.profile.estimate import kernels
from kvsim.profile.estimate.assumptions import Assumptions, load_assumptions
from kvsim.profile.estimate.coefficients import Coefficients, load_coefficients
from kvsim.profile.estimate.copies import link_of
from kvsim.profile.estimate.hosts import Runtime, decision_costs, with_launches
from kvsim.profile.estimate.kernels import Formats, Kernel, formats_of
from kvsim.profile.estimate.pricing import Price, Pricing, Work
from kvsim.profile.profile import SCHEMA_VERSION, Machine, Profile
from kvsim.profile.tables import CostTable
from kvsim.scenario.shapes import BITSANDBYTES, ModelShape, Quantisation

BATCHES = tuple(float(2**power) for power in range(9))
"""1 to 256 sequences."""
MANY_TOKENS = 2.0**22
"""Cached tokens of a batch up to which attention is priced: its time is linear in them."""
MANY_PAGES = 2.0**19
NEW_TOKENS = (1.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
CACHED_TOKENS = (0.0, 8192.0, 32768.0, 131072.0)
PAGE_TOKENS = (16, 32, 64)


def unpriced(shape: ModelShape) -> str:
    """Return what of a model no estimate has a time for; empty where it has all."""
    if not shape.states:
        return ""
    return f"{shape.state_layers} layers hold a state, and no table of kernels has such layers"


def estimate_profile(
    card: Card,
    shape: ModelShape,
    *,
    weights: str | None = None,
    kv: str | None = None,
    quantisation: Quantisation | None = None,
    runtime: Runtime = "graph",
) -> Profile:
    """Return what the steps of `shape` cost on `card`, from its data sheet and coefficients fitted on other cards.

    Parameters
    ----------
    weights
        Number format of the layers' weights, one of `PRICED_AS`; None: the shape's.
    kv
        Number format of the KV cache; None: the shape's.
    quantisation
        Weights packed by bitsandbytes as they load, in place of a number format.
    runtime
        ``graph``: kernels launched as one graph; ``eager``: one by one from Python.

    Raises
    ------
    ScenarioError
        If a number format is none that the card or an estimate has a rate for, or layers hold a state.
    """
    if shape.states:
        raise ScenarioError(unpriced(shape) + ": calibrate a profile of the model")
    coefficients, assumptions = load_coefficients(), load_assumptions()
    shape = shape.in_formats(weights=weights, kv=kv)
    packed = BITSANDBYTES[quantisation] if quantisation else None
    formats = formats_of(shape, packed, None, has_fp8=card.fp8_flop_per_s is not None)
    pricing = Pricing(card=card, coefficients=coefficients)
    if card.rate_flop_per_s(formats.activations) is None:
        raise ScenarioError(
            f"card {card.name}: it multiplies no {formats.activations}; set model.dtype to "
            f"{'fp16' if formats.activations == 'bf16' else 'bf16'}"
        )
    devices = _segments(pricing, shape, formats, assumptions)
    return Profile(
        schema_version=SCHEMA_VERSION,
        name=_name(card, packed or shape.weights or shape.dtype, shape.kv, runtime),
        kind="estimated",
        notes=_notes(card, coefficients),
        device="cuda",
        synchronous=False,
        runtime=runtime,
        device_memory_bytes=card.usable_memory_bytes,
        page_tokens=PAGE_TOKENS,
        shape=shape,
        quantisation=quantisation,
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
        """Return what follows attention; layers without pages, their windows full, are part of it."""
        own = _output(pricing, batch, shape, formats)
        if not shape.window_layers:
            return [*own]
        attention = kernels.decode_attention(batch * (shape.window_tokens or 0), batch, shape, formats)
        window = pricing.total([*kernels.attention_input(batch, shape, formats), attention, *own])
        return [*own, window.times(shape.window_layers / shape.paged_layers)]

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
        def layer(seen_tokens: float) -> Price:
            return pricing.total([
                *kernels.attention_input(new_tokens, shape, formats),
                kernels.prefill_attention(new_tokens, seen_tokens, shape, formats),
                *_output(pricing, new_tokens, shape, formats),
            ])  # fmt: skip

        layers = [layer(cached_tokens).times(shape.paged_layers)]
        if shape.window_layers:
            layers.append(layer(min(cached_tokens, float(shape.window_tokens or 0))).times(shape.window_layers))
        return [*layers, kernels.embedding(new_tokens, shape), *kernels.head(1.0, shape, formats)]

    source = (
        "the layers' products and attention over new and cached tokens, head for the last token. "
        "Attention was fitted without cached tokens; assumption: pairs of a new and a cached token cost the same. "
        + _fitted_source(pricing, "prefill_attention", formats)
    )
    return pricing.by_amount(whole, "tokens", NEW_TOKENS, CACHED_TOKENS, columns_are="cached_tokens", source=source)


def _output(pricing: Pricing, rows: float, shape: ModelShape, formats: Formats) -> list[Kernel | Price]:
    """Return what follows attention in a layer; of layers with and without experts the mean."""
    dense = kernels.attention_output(rows, shape, formats)
    if shape.experts is None:
        return [*dense]
    routed = [*kernels.projection(rows, shape, formats), *kernels.mixture(rows, shape.experts, shape, formats)]
    dense_frac = shape.experts.num_dense_layers / shape.num_layers
    if not dense_frac:
        return [*routed]
    return [pricing.total(dense).times(dense_frac), pricing.total(routed).times(1 - dense_frac)]


_ELEMENTWISE = "kernels that move bytes: kind elementwise of kvsim/profile/estimate/coefficients.toml"


def _fitted_source(pricing: Pricing, kind: str, formats: Formats) -> str:
    return (
        f"estimated: kind {kind} ({formats.weights} weights) of kvsim/profile/estimate/coefficients.toml on the data "
        f"sheet of {pricing.card.title}"
    )


def _name(card: Card, weights: str, kv: str | None, runtime: str) -> str:
    return "-".join([card.name, weights, *(["kv", kv] if kv else []), runtime, "estimated"])


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
