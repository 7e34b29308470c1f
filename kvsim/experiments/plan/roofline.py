"""The options of a model that decode cannot simulate: memory as it is, times as the least that its bytes take."""

from __future__ import annotations

from kvsim.experiments.plan.memory import memory_of
from kvsim.experiments.plan.request import Request
from kvsim.experiments.plan.result import Option
from kvsim.experiments.plan.simulate import format_words, more_cards
from kvsim.scenario.models.attention import Latent
from kvsim.scenario.models.memory import kv_bytes
from kvsim.scenario.models.work import attention_flop, step_weight_bytes, weights_flop

SLOWEST = 2.9
"""How many times as long as their bytes over the data sheet's bandwidth measured steps took at most: docs/estimates.md,
"complete steps, with the card left out", the worst of nine cards (-65%)."""


def roofline_options(request: Request, formats: list[tuple[str | None, str | None]]) -> list[Option]:
    """Return one option for each format of weights and cache with everything on the card, and more cards."""
    options = [_option(request, weights, kv) for weights, kv in formats]
    memory = memory_of(request)
    return options if memory.fits else [*options, *more_cards(request, options[0], memory, None)]


def least_step_s(request: Request, weights: str | None, kv: str) -> float:
    r"""Return the least time of a decode step: :math:`\max(bytes / bandwidth, operations / rate)` of the data sheet.

    Bytes are the weights that the batch reads and all that it holds of its contexts, where an indexer chooses tokens
    those only; operations are counted in 16 bits.
    """
    spec, card, batch = request.spec, request.card, request.batch
    asked = weights or (None if spec.quantisation else request.dtype)
    moved_bytes = step_weight_bytes(spec, batch, asked) + batch * kv_bytes(spec, _read_tokens(request), kv)
    flop = batch * (weights_flop(spec) + attention_flop(spec, request.context_tokens))
    rate_flop_per_s = card.rate_flop_per_s(request.dtype)
    assert rate_flop_per_s is not None  # `Request.dtype` is one that the card has
    return max(moved_bytes / card.memory_bandwidth_bytes_per_s, flop / rate_flop_per_s)


def _read_tokens(request: Request) -> int:
    chosen = [
        mixer.num_chosen_tokens
        for layer in request.spec.layers
        for mixer in layer.mixers
        if isinstance(mixer, Latent) and mixer.num_chosen_tokens is not None
    ]
    return min([request.context_tokens, *chosen])


def _option(request: Request, weights: str | None, kv: str | None) -> Option:
    memory = memory_of(request, weights, kv)
    least_s = least_step_s(request, weights or request.weights, memory.kv)
    return Option(
        name=format_words(request, memory.weights, memory.kv) or "all on the card",
        weights=memory.weights,
        kv=memory.kv,
        num_cards=1,
        device_bytes=memory.total_bytes,
        host_bytes=0,
        fits=memory.fits,
        tpot_s=least_s,
        tpot_interval_s=(least_s, SLOWEST * least_s),
        tokens_per_s=request.batch / least_s,
        recall_frac=None,
        basis="roofline",
        cell=None,
    )
