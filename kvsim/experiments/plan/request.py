"""What a plan is asked for, checked and resolved: model, card and formats as objects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from kvsim.errors import ScenarioError
from kvsim.profile.cards.card import Card
from kvsim.profile.cards.load import load_card
from kvsim.scenario.models.find import find_model
from kvsim.scenario.models.formats import kv_format, weight_format
from kvsim.scenario.models.memory import weight_bytes
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.shapes import DType

UTILISATION_FRAC = 0.9
"""Share of the card's memory that an engine takes: the default of vLLM's ``gpu_memory_utilization``."""
RESERVE_BYTES = 2**29
"""Memory that the runtime takes besides: 0.03 to 0.25 GiB outside of torch (vllm issues 13882, 13061, PR 12126), and
0.1 to 0.6 GiB for graphs (wtdcode/vllm-backport issue 34)."""
STEP_TOKENS = 2048
"""Tokens that one step of a prefill computes: vLLM's default on cards of less than 70 GiB."""
MIN_CONTEXT_TOKENS = 512
"""Shorter contexts have no middle from which pages could be left out, and everything fits."""
RECALL_FRAC = 0.9
"""Least attention recall of what is recommended, where none is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked."""

    model: str
    gpu: str
    """Model and card as they were named."""
    spec: ModelSpec
    card: Card
    context_tokens: int
    batch: int
    weights: str | None
    """Format of the weights; None as they were published."""
    kv: str | None
    """Format of the KV cache; None for `dtype`."""
    tpot_s: float | None
    recall_frac: float | None
    host_memory_bytes: int | None
    utilisation_frac: float
    reserve_bytes: int
    step_tokens: int
    runtime: str

    @property
    def dtype(self) -> DType:
        """Of activations: as published, but that cards without bf16 compute in fp16."""
        return "fp16" if self.spec.dtype == "fp16" or self.card.bf16_flop_per_s is None else "bf16"

    @property
    def usable_bytes(self) -> int:
        """Memory of the card that an engine takes."""
        return int(self.utilisation_frac * self.card.usable_memory_bytes)

    def own_weights(self) -> str:
        """Return the format that the weights have where none is asked for."""
        return self.spec.quantisation.form.name if self.spec.quantisation else self.dtype

    def weights_bytes(self, weights: str | None) -> int:
        """Return the bytes of the weights in a format; None as they were published, 32 bits in 16."""
        return weight_bytes(self.spec, self.published_or(weights))

    def published_or(self, weights: str | None) -> str | None:
        """Return the format asked for; else None where the published weights are packed, and 16 bits where not."""
        return weights if weights or self.spec.quantisation else self.dtype


def make_request(
    model: str,
    gpu: str,
    *,
    context_tokens: int,
    batch: int = 1,
    weights: str | None = None,
    kv: str | None = None,
    tpot_s: float | None = None,
    recall_frac: float | None = None,
    host_memory_bytes: int | None = None,
    utilisation_frac: float = UTILISATION_FRAC,
    reserve_bytes: int = RESERVE_BYTES,
    step_tokens: int = STEP_TOKENS,
    runtime: str = "graph",
) -> Request:
    """Return a request with its model and card found.

    Raises
    ------
    KvsimError
        If there is no such model, card or format, a number makes no sense, or the context is longer than the model's
        learned positions.
    """
    names = {"model": model, "gpu": gpu, "weights": weights or "", "kv": kv or ""}
    for name, value in names.items():
        if not isinstance(value, str):
            raise ScenarioError(f"{name} should be text, found {value!r}")
    spec, card = find_model(model), load_card(gpu)
    weight_format(weights or "bf16")
    kv_format(kv or "bf16")
    request = Request(
        model=model,
        gpu=gpu,
        spec=spec,
        card=card,
        context_tokens=context_tokens,
        batch=batch,
        weights=weights,
        kv=kv,
        tpot_s=tpot_s,
        recall_frac=recall_frac,
        host_memory_bytes=host_memory_bytes,
        utilisation_frac=utilisation_frac,
        reserve_bytes=reserve_bytes,
        step_tokens=step_tokens,
        runtime=runtime,
    )
    _check_kinds(request)
    _check(request)
    return request


_WHOLE = ("context_tokens", "batch", "host_memory_bytes", "reserve_bytes", "step_tokens")
_FRACTIONS = ("tpot_s", "recall_frac", "utilisation_frac")


def _check_kinds(request: Request) -> None:
    """Refuse what is no number, as Python callers may pass: sizes in words are for the command line."""
    for name in (*_WHOLE, *_FRACTIONS):
        value = getattr(request, name)
        expected_type = Integral if name in _WHOLE else Real
        if value is not None and (
            not isinstance(value, expected_type) or isinstance(value, bool) or not math.isfinite(float(value))
        ):
            kind = "a whole number" if name in _WHOLE else "a finite number"
            raise ScenarioError(f"{name} should be {kind}, found {value!r}")


def _check(request: Request) -> None:
    least = {
        "context": (request.context_tokens, MIN_CONTEXT_TOKENS),
        "batch": (request.batch, 1),
        "step tokens": (request.step_tokens, 1),
    }
    for name, (value, lowest) in least.items():
        if value < lowest:
            raise ScenarioError(f"{name} should be at least {lowest}, found {value}")
    if not 0 < request.utilisation_frac <= 1:
        raise ScenarioError(f"utilisation should be above 0 and at most 1, found {request.utilisation_frac:g}")
    if request.recall_frac is not None and not 0 < request.recall_frac <= 1:
        raise ScenarioError(f"recall should be above 0 and at most 1, found {request.recall_frac:g}")
    if request.tpot_s is not None and request.tpot_s <= 0:
        raise ScenarioError(f"tpot should be above 0, found {request.tpot_s:g} s")
    if request.host_memory_bytes is not None and request.host_memory_bytes < 1:
        raise ScenarioError("host memory should be above 0; leave it out where it does not matter")
    if request.reserve_bytes < 0:
        raise ScenarioError("the reserve of the runtime should not be below 0")
    limit = request.spec.max_positions
    if request.spec.has_position_limit and limit is not None and request.context_tokens > limit:
        raise ScenarioError(
            f"{request.spec.name}: {request.context_tokens:,} tokens of context; the model has learned embeddings for "
            f"{limit:,} positions: take a context of at most so many"
        )
