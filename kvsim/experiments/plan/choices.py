"""Which ways of running a model a plan compares: formats, device memory for pages, and how many pages are read."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.experiments.plan.memory import memory_of
from kvsim.experiments.plan.request import Request
from kvsim.scenario.shapes import ModelShape
from kvsim.types import pages_of

PAGE_TOKENS = 64
"""Tokens of a page: small ones fall below the size from which copy engines reach the link's rate."""
SINK_PAGES, RECENT_PAGES = 1, 2
READ_FRACS = (16, 8, 4, 32)
"""Shares of the context's pages that are read, as one in so many; the first with all budgets."""
SIXTEEN_BITS = ("bf16", "fp16")
_LEAST_PAGES = 4
_ROUND_BYTES = 2**20
"""Budgets are whole MiB, where they have as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What varies; the first of each goes with all others."""

    weights: tuple[str, ...]
    kvs: tuple[str, ...]
    paged_weights: str
    """Format of the weights where pages move: the first whose weights leave room."""
    budgets_bytes: tuple[int, ...]
    """Device memory for pages: what is left, its half and its quarter; of a cache that fits whole, the half and less.

    None where pages cannot move."""
    ks_pages: tuple[int, ...]
    """Pages chosen by score, besides sinks, recent window and open page; none where that would be all."""
    can_stream: bool
    """Whether two layers' keys and values fit into the first budget."""


def choices_of(request: Request, shape: ModelShape) -> Choices:
    """Return the choices of a request; pages cannot move where processor and GPU share one memory."""
    own = request.weights or request.own_weights()
    weights = (own, "int4") if own in (*SIXTEEN_BITS, "fp8", "fp8-block", "int8") else (own,)
    kv = request.kv or request.dtype
    kvs = (kv, "fp8") if kv in SIXTEEN_BITS else (kv,)
    total = pages_of(request.context_tokens, PAGE_TOKENS)
    fixed = SINK_PAGES + RECENT_PAGES + 1
    ks = [max(total // part, _LEAST_PAGES) for part in READ_FRACS]
    ks_pages = tuple(k for k in dict.fromkeys(ks) if k + fixed < total)
    page_bytes = shape.in_formats(kv=kv).page_bytes(PAGE_TOKENS)
    least = _least_pages(request, shape, min((*ks_pages, total)) + fixed) * page_bytes
    for packed in weights:
        room_bytes = _room_bytes(request, shape, packed, kv)
        if room_bytes >= least and not request.card.unified_memory and ks_pages:
            break
    else:
        return Choices(weights=weights, kvs=kvs, paged_weights=own, budgets_bytes=(), ks_pages=(), can_stream=False)
    stream = _least_pages(request, shape, total, at_once=2) * page_bytes
    total_bytes = total * shape.paged_layers * request.batch * page_bytes
    most = room_bytes if room_bytes < total_bytes else total_bytes // 2
    can_stream = stream <= most
    budgets = _budgets(most, stream if can_stream else least)
    return Choices(
        weights=weights,
        kvs=kvs,
        paged_weights=packed,
        budgets_bytes=budgets,
        ks_pages=tuple(k for k in ks_pages if _least_pages(request, shape, k + fixed) * page_bytes <= budgets[-1]),
        can_stream=can_stream,
    )


def _room_bytes(request: Request, shape: ModelShape, weights: str, kv: str) -> int:
    """Return the device memory left for pages beside their summaries, and windows and states of other layers."""
    pages = pages_of(request.context_tokens, PAGE_TOKENS) * shape.paged_layers * request.batch
    unpaged_bytes = request.batch * shape.in_formats(kv=kv).unpaged_bytes(request.context_tokens)
    asked = None if weights == request.own_weights() and request.weights is None else weights
    return memory_of(request, asked, kv).max_kv_bytes - shape.summary_bytes(pages) - unpaged_bytes


def _budgets(most_bytes: int, least_bytes: int) -> tuple[int, ...]:
    """Return the most, its half and its quarter, in whole MiB, where they are enough for every policy."""
    sizes = (most_bytes, *(size // _ROUND_BYTES * _ROUND_BYTES for size in (most_bytes // 2, most_bytes // 4)))
    return tuple(dict.fromkeys(size for size in sizes if size >= least_bytes))


def _least_pages(request: Request, shape: ModelShape, read_pages: int, *, at_once: int = 1) -> int:
    """Return the fewest device pages: what layers read at once, and what is pinned of the others."""
    pinned = min(SINK_PAGES + RECENT_PAGES + 1, read_pages)
    at_once = min(at_once, shape.paged_layers)
    return request.batch * (at_once * read_pages + (shape.paged_layers - at_once) * pinned)
