"""Copies between host and device: the card's achieved rate, and the piece size below which copy engines crawl."""

from __future__ import annotations

from collections.abc import Callable

from kvsim.profile.cards.card import Card
from kvsim.profile.estimate.assumptions import Assumptions, Copy
from kvsim.profile.profile import Link, LinkCost
from kvsim.profile.tables import CostTable


def link_of(card: Card, assumptions: Assumptions) -> Link:
    """Return the link of `card`: achieved rate from its data sheet, small pieces as an H100's copy engine has them."""
    copy, assumed = assumptions.copy_pieces, assumptions.link
    rate = card.copy_bytes_per_s
    origin = card.sources.get("link_achieved_bytes_per_s", "the card's own file")
    reached = f"{rate / 1e9:g} GB/s achieved: {origin}. "
    if card.unified_memory:
        reached = f"{rate / 1e9:g} GB/s: a copy inside one memory reads and writes it. "

    def cost(transfer_s: Callable[[Copy, float, float, float], float], assumption: str = "") -> LinkCost:
        source = f"{reached}{assumption}{copy.source}"
        table = _table(copy, lambda count, size: transfer_s(copy, rate, count, size), source)
        return LinkCost(transfer=table, submit_s=assumed.submit_s, mechanism=copy.mechanism)

    return Link(
        emulated=False,
        issue="stream",
        to_device=cost(_to_device_s),
        to_host=cost(
            _to_host_s, "assumption: to the host a piece costs what 64 KiB do to the device, without a cliff. "
        ),
        both_ways_slowdown_frac=assumed.both_ways_slowdown_frac,
        compute_slowdown_frac=assumed.compute_slowdown_frac,
    )


def _table(copy: Copy, transfer_s: Callable[[float, float], float], source: str) -> CostTable:
    return CostTable(
        amount="pieces",
        amounts=copy.pieces,
        columns_are="piece_bytes",
        columns=copy.piece_bytes,
        time_s=tuple(
            tuple(float(f"{transfer_s(count, size):.6g}") for size in copy.piece_bytes) for count in copy.pieces
        ),
        residual_low_frac=copy.low_frac,
        residual_high_frac=copy.high_frac,
        source=f"{source}. Spread: {copy.spread_source}",
    )


def _to_device_s(copy: Copy, rate_bytes_per_s: float, count: float, piece_bytes: float) -> float:
    if count == copy.pieces[0]:
        share_s = _to_device_s(copy, rate_bytes_per_s, copy.pieces[1], piece_bytes) / copy.pieces[1]
        return copy.call_s + count * share_s
    bytes_s = piece_bytes / rate_bytes_per_s
    rates = copy.rate_gb_per_s.get(str(int(piece_bytes)))
    if rates is None:
        return count * bytes_s
    measured_s = piece_bytes / (rates[copy.pieces.index(count) - 1] * 1e9)
    if piece_bytes < copy.cliff_bytes:
        return count * max(measured_s, bytes_s)
    own_s = measured_s - piece_bytes / copy.reference_bytes_per_s
    return count * (max(own_s, 0.0) + bytes_s)


def _to_host_s(copy: Copy, rate_bytes_per_s: float, count: float, piece_bytes: float) -> float:
    few, *_, many = copy.rate_gb_per_s["65536"]
    own_s = 65536 * (1 / few - 1 / many) * 1e-9
    return copy.call_s + count * (own_s + piece_bytes / rate_bytes_per_s)
