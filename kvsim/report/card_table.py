"""What `kvsim card list` and `kvsim card show` print."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kvsim.profile.cards.card import Card
from kvsim.report.tables import aligned, wrapped
from kvsim.units import format_bytes


def card_list_text(cards: Iterable[Card], fitted: Collection[str]) -> str:
    """Return one line for each card.

    Parameters
    ----------
    fitted
        Architectures of which kernels were measured: estimates for them are the surest.
    """
    head = ("name", "memory", "GB/s", "bf16", "fp8", "link GB/s", "estimates from", "title")
    rows = [_listed(card, fitted) for card in cards]
    notes = (
        "memory: what an application can have. GB/s: of the memory. bf16, fp8: dense TFLOP/s. link: large copies from "
        "the host, as achieved. estimates from: kernels of its own architecture, of other cards of its vendor, or of "
        "other vendors; docs/estimates.md has the errors."
    )
    return "\n".join([*aligned([head, *rows], left=(0, 6, 7)), "", *wrapped(notes)])


def card_text(card: Card, fitted: Collection[str]) -> str:
    """Return every figure of one card with its source."""
    own = {name: (_figure(name, value), _source(card, name)) for name, value in card.figures().items()}
    rows = [("figure", "value", "source"), *((name, *texts) for name, texts in own.items())]
    link = "one memory with the processor, no link" if card.unified_memory else (card.link or "link not named")
    parts = [
        f"{card.name}: {card.title} ({card.vendor}, {card.architecture}; {link})",
        "",
        *aligned(rows, left=(0, 2)),
        "",
        f"Estimates rest on kernels of {_origin(card, fitted)}.",
    ]
    return "\n".join([*parts, *wrapped(card.notes)])


def card_facts(card: Card) -> dict[str, str]:
    """Return every figure with its source, by name."""
    return {name: f"{_figure(name, value)}: {_source(card, name)}" for name, value in card.figures().items()}


def _listed(card: Card, fitted: Collection[str]) -> tuple[str, ...]:
    link = "-" if card.link_achieved_bytes_per_s is None else f"{card.link_achieved_bytes_per_s / 1e9:,.0f}"
    return (
        card.name,
        format_bytes(card.usable_memory_bytes),
        f"{card.memory_bandwidth_bytes_per_s / 1e9:,.0f}",
        _tera(card.bf16_flop_per_s),
        _tera(card.fp8_flop_per_s),
        link,
        _origin(card, fitted),
        card.title,
    )


def _origin(card: Card, fitted: Collection[str]) -> str:
    if card.architecture in fitted:
        return f"its architecture, {card.architecture}"
    return "other cards of its vendor" if card.vendor == "nvidia" else "other vendors' cards"


def _tera(rate_flop_per_s: float | None) -> str:
    return "-" if rate_flop_per_s is None else f"{rate_flop_per_s / 1e12:,.0f}"


def _figure(name: str, value: float) -> str:
    if name.endswith("flop_per_s"):
        return f"{value / 1e12:,.4g} TFLOP/s"
    return f"{value / 1e9:,.4g} GB/s" if name.endswith("per_s") else format_bytes(value)


def _source(card: Card, name: str) -> str:
    unchecked = " (no public text agreed with it)" if name in card.unchecked else ""
    return card.sources.get(name, "the card's own file") + unchecked
