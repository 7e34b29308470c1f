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
            other != own and all(theirs <= mine for theirs, mine in zip(other, own, strict=True))
            for other in costs.values()
        )
    )


def recommended(request: Request, options: Sequence[Option]) -> Option | None:
    """Return the option to take: of those that fit and keep what was asked, the one that gives up least.

    What is given up, in this order: bits of the cache, bits of the weights, time for copies of all tokens, attention
    mass, another card. Without a time that was asked for, streaming is no option where something reads less at the
    recall that is asked for and is faster.
    """
    kept = [option for option in options if option.fits and is_enough(request, option)]
    if not kept:
        return None
    best = min(kept, key=lambda option: (_given_up(request, option), option.tpot_s))
    if request.tpot_s is None and best.host_bytes and best.recall_frac is None:
        faster = [option for option in kept if option.num_cards == 1 and option.tpot_s < best.tpot_s]
        return min([best, *faster], key=lambda option: option.tpot_s)
    return best


def is_enough(request: Request, option: Option) -> bool:
    """Return whether an option keeps the time and the recall that were asked for."""
    recall_frac = 1.0 if option.recall_frac is None else option.recall_frac
    in_time = request.tpot_s is None or option.tpot_s <= request.tpot_s
    return in_time and recall_frac >= (request.recall_frac or RECALL_FRAC)


def sentences(request: Request, options: Sequence[Option], choice: Option | None) -> tuple[str, str]:
    """Return what to do, and what it rests on."""
    return _what(options, choice), _why(request, options, choice)


def _costs(option: Option) -> tuple[float, ...]:
    recall_frac = 1.0 if option.recall_frac is None else option.recall_frac
    bits = weight_format(option.weights).bits, kv_format(option.kv).bits
    return option.tpot_s, -recall_frac, option.num_cards, *(-number for number in bits)


def _given_up(request: Request, option: Option) -> tuple[int, ...]:
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
        time = f"{_time(choice)} a token" if choice.basis == "estimated" else f"at least {_time(choice)} a token"
        recall = (
            "" if choice.recall_frac is None else f", reading {100 * choice.recall_frac:.0f}% of the attention mass"
        )
        host = f" and {format_bytes(choice.host_bytes)} of host memory" if choice.host_bytes else ""
        return f"Take {_quoted(choice)}: {time}{recall}, in {format_bytes(choice.device_bytes)} of the card{host}."
    fitting = [option for option in options if option.fits]
    if not fitting:
        return "Nothing fits: take a card with more memory, a shorter context or a smaller batch."
    nearest = min(fitting, key=lambda option: option.tpot_s)
    recall = "" if nearest.recall_frac is None else f" with {100 * nearest.recall_frac:.0f}% of the attention mass"
    return (
        f"Nothing that fits keeps what was asked; the fastest is {_quoted(nearest)}, {_time(nearest)} a token{recall}."
    )


def _why(request: Request, options: Sequence[Option], choice: Option | None) -> str:
    whole = options[0]
    if whole.fits:
        first = "Everything fits" if choice is whole else "Everything fits as asked"
    else:
        missing = format_bytes(whole.device_bytes - request.usable_bytes)
        first = f"Everything as asked would take {missing} more than the {format_bytes(request.usable_bytes)} used"
    if whole.basis == "roofline":
        return f"{first}; times are the least that bytes and operations take at the data sheet's rates."
    return f"{first}; times are estimated from the card's data sheet, nothing was measured on it."


def _quoted(option: Option) -> str:
    return f"'{option.name}'"


def _time(option: Option) -> str:
    return format_seconds(option.tpot_s)
