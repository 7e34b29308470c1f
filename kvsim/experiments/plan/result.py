"""The answer: what fits, the options, which of them none is better than, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kvsim.experiments.plan.memory import Memory
from kvsim.experiments.plan.request import Request
from kvsim.scenario.decode import Scenario

Basis = Literal["estimated", "roofline"]
State = Literal["recommended", "Pareto front", "fits", "does not fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to run the model, and what it would give."""

    name: str
    """In words, for tables."""
    weights: str
    kv: str
    num_cards: int
    device_bytes: int
    """Of one card, the runtime's reserve included."""
    host_bytes: int
    fits: bool
    """Whether each card's memory and the host's hold it."""
    tpot_s: float
    """Time per output token of every sequence."""
    tpot_interval_s: tuple[float, float]
    tokens_per_s: float
    """Of all sequences together."""
    recall_frac: float | None
    """Share of the attention mass that is read; None where all of it is."""
    basis: Basis
    """``estimated``: simulated on a profile that was estimated. ``roofline``: bytes and operations at the data sheet's
    rates, which no card reaches: `tpot_s` is then the least."""
    cell: int | None
    """Its place among the cells of the scenario; None where no scenario has it."""

    @property
    def read_frac(self) -> float:
        """Share of the attention mass that is read, 1 where all of it is."""
        return 1.0 if self.recall_frac is None else self.recall_frac


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The answer to a `Request`."""

    request: Request
    memory: Memory
    options: tuple[Option, ...]
    front: tuple[str, ...]
    """Names of the options that fit and to which no other is at least equal in everything."""
    recommended: str | None
    """Name of an option; None where nothing meets what was asked."""
    sentences: tuple[str, str]
    """What to do, and what that rests on."""
    warnings: tuple[str, ...]
    """What may make it worthless."""
    notes: tuple[str, ...]
    """What it rests on."""
    commands: tuple[str, ...]
    """What reproduces it, and what replaces estimates by measurements, where the card is."""
    scenario: Scenario | None
    """What reproduces the simulated options; None where decode cannot express the model at this context."""

    def state(self, option: Option) -> State:
        """Return what becomes of an option."""
        if option.name == self.recommended:
            return "recommended"
        if option.name in self.front:
            return "Pareto front"
        return "fits" if option.fits else "does not fit"
