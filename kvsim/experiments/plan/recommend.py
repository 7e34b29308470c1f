"""Which options none is better than, and which one to take."""

from __future__ import annotations

from collections.abc import Sequence

from kvsim.experiments.plan.request import RECALL_FRAC, Request
from kvsim.experiments.plan.result import Option
from kvsim.scenario.models.formats import kv_format, weight_format
from kvsim.units import format_bytes, format_seconds


def pareto_front(options: Sequence[Option]) -> tuple[str, ...]:
    """Return the names of the options that fit and to which no other one that fits is at least equal in everything.

    Compared are time, recall, cards, and the bits of weights and cache, of which fewer may lose quality that is not
    counted.
    """
    fitting = [option for option in options if option.fits]
    costs = {option.name: _costs(option) for option in fitting}
    return tuple(
        name
        for name, own in costs.items()
        if not any(
            other != own and all(other_cost <= own_cost for other_cost, own_cost in zip(other, own, strict=True))
            for other in costs.values()
        )
    )


def recommended(request: Request, options: Sequence[Option]) -> Option | None:
    """Return the option to take: of those that fit and keep what was asked, the one that gives up least.

    What is given up, in this order: bits of the cache, bits of the weights, time for copies of all tokens, attention
    mass, another card. Without a time that was asked for, streaming is no option where something reads less at the
    recall that is asked for and is faster.
    """
    sufficient = [option for option in options if option.fits and is_enough(request, option)]
    if not sufficient:
        return None
    best = min(sufficient, key=lambda option: (_concessions(request, option), option.tpot_s))
    if request.tpot_s is None and best.host_bytes and best.recall_frac is None:
        faster = [option for option in sufficient if option.num_cards == 1 and option.tpot_s < best.tpot_s]
        return min([best, *faster], key=lambda option: option.tpot_s)
    return best


def is_enough(request: Request, option: Option) -> bool:
    """Return whether an option keeps the time and the recall that were asked for."""
    in_time = request.tpot_s is None or option.tpot_s <= request.tpot_s
    return in_time and option.read_frac >= (request.recall_frac or RECALL_FRAC)


def sentences(request: Request, options: Sequence[Option], choice: Option | None) -> tuple[str, str]:
    """Return what to do, and what it rests on."""
    return _what(options, choice), _why(request, options, choice)


def _costs(option: Option) -> tuple[float, ...]:
    bits = weight_format(option.weights).bits, kv_format(option.kv).bits
    return option.tpot_s, -option.read_frac, option.num_cards, *(-number for number in bits)


def _concessions(request: Request, option: Option) -> tuple[int, ...]:
    own = request.weights or request.own_weights(), request.kv or request.dtype
    return (
        option.num_cards,
        int(option.recall_frac is not None),
        int(option.host_bytes > 0),
        int(option.weights != own[0]),
        int(option.kv != own[1]),
    )


def _what(options: Sequence[Option], choice: Option | None) -> str:
    if choice is not None:
        host = f" and {format_bytes(choice.host_bytes)} of host memory" if choice.host_bytes else ""
        cards = f"each of {choice.num_cards} cards" if choice.num_cards > 1 else "the card"
        memory = f"{format_bytes(choice.device_bytes)} of {cards}{host}"
        return f"Recommended: {choice.name}, {_time(choice)} a token{_recall(choice)}, with {memory}."
    fitting = [option for option in options if option.fits]
    if not fitting:
        return "Nothing fits: take a card with more memory, a shorter context or a smaller batch."
    nearest = min(fitting, key=lambda option: option.tpot_s)
    return (
        "Nothing that fits is as fast and reads as much as asked; the fastest that fits is "
        f"{nearest.name}, {_time(nearest)} a token{_recall(nearest)}."
    )


def _why(request: Request, options: Sequence[Option], choice: Option | None) -> str:
    whole = options[0]
    if whole.fits:
        first = "Everything fits" if choice is whole else "Everything fits as asked, but not as fast as asked"
    else:
        missing = format_bytes(whole.device_bytes - request.usable_bytes)
        first = f"All on the card would take {missing} more than the {format_bytes(request.usable_bytes)} it may use"
    if whole.basis == "roofline":
        return f"{first}; times are the least that is possible, not estimates."
    return f"{first}; times are estimated from a data sheet, nothing was measured on this card."


def _time(option: Option) -> str:
    low_s, high_s = option.tpot_interval_s
    if option.basis == "roofline":
        return f"at least {format_seconds(low_s)}"
    return f"{format_seconds(option.tpot_s)} ({format_seconds(low_s)} to {format_seconds(high_s)})"


def _recall(option: Option) -> str:
    return "" if option.recall_frac is None else f" at {100 * option.recall_frac:.0f}% attention recall"
