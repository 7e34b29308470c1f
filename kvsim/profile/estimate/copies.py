"""Copies between host and device: the card's achieved rate, and the piece size below which copy engines crawl."""

from __future__ import annotations

from kvsim.profile.cards.card import Card
from kvsim.profile.estimate.assumptions import Assumptions, Copy
from kvsim.profile.profile import Link, LinkCost
from kvsim.profile.tables import CostTable


def link_of(card: Card, assumptions: Assumptions) -> Link:
    """Return the link of `card`: achieved rate from its data sheet, small pieces as an H100's copy engine has them."""
    given, about = assumptions.copy_pieces, assumptions.link
    rate = card.copy_bytes_per_s
    reached = f"{rate / 1e9:g} GB/s achieved: {card.sources.get('link_achieved_bytes_per_s', 'the card given')}. "
    if card.unified_memory:
        reached = f"{rate / 1e9:g} GB/s: a copy inside one memory reads and writes it. "
    return Link(
        emulated=False,
        issue="stream",
        to_device=LinkCost(
            transfer=_table(given, lambda count, size: _to_device_s(given, rate, count, size), reached + given.source),
            submit_s=about.submit_s,
            mechanism=given.mechanism,
        ),
        to_host=LinkCost(
            transfer=_table(
                given,
                lambda count, size: _to_host_s(given, rate, count, size),
                f"{reached}assumption: to the host a piece costs what 64 KiB do to the device, without a cliff. "
                + given.source,
            ),
            submit_s=about.submit_s,
            mechanism=given.mechanism,
        ),
        both_ways_slowdown_frac=about.both_ways_slowdown_frac,
        compute_slowdown_frac=about.compute_slowdown_frac,
    )


def _table(given: Copy, transfer_s, source: str) -> CostTable:  # type: ignore[no-untyped-def]
    return CostTable(
        amount="pieces",
        amounts=given.pieces,
        batches=given.piece_bytes,
        time_s=tuple(
            tuple(float(f"{transfer_s(count, size):.6g}") for size in given.piece_bytes) for count in given.pieces
        ),
        residual_low_frac=given.low_frac,
        residual_high_frac=given.high_frac,
        source=f"{source}. Spread: {given.spread_source}",
    )


def _to_device_s(given: Copy, rate_bytes_per_s: float, count: float, piece_bytes: float) -> float:
    if count == given.pieces[0]:
        share_s = _to_device_s(given, rate_bytes_per_s, given.pieces[1], piece_bytes) / given.pieces[1]
        return given.call_s + count * share_s
    bytes_s = piece_bytes / rate_bytes_per_s
    rates = given.rate_gb_per_s.get(str(int(piece_bytes)))
    if rates is None:
        return count * bytes_s
    measured_s = piece_bytes / (rates[given.pieces.index(count) - 1] * 1e9)
    if piece_bytes < given.cliff_bytes:
        return count * max(measured_s, bytes_s)
    own_s = measured_s - piece_bytes / given.reference_bytes_per_s
    return count * (max(own_s, 0.0) + bytes_s)


def _to_host_s(given: Copy, rate_bytes_per_s: float, count: float, piece_bytes: float) -> float:
    few, *_, many = given.rate_gb_per_s["65536"]
    own_s = 65536 * (1 / few - 1 / many) * 1e-9
    return given.call_s + count * (own_s + piece_bytes / rate_bytes_per_s)
