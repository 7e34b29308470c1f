"""The assumptions that ship: copies, decisions and launches, which no kernel table has."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from kvsim.errors import CalibrationError
from kvsim.scenario.toml import Listed, Strict, read_toml, validate

DATA = Path(__file__).with_name("assumptions.toml")


class TopK(Strict):
    """The choice of the k best scores of a layer."""

    time_s: PositiveFloat
    low_frac: float
    high_frac: float
    source: str


class Copy(Strict):
    """One batched copy on the card that was measured, by pieces and bytes of a piece."""

    pieces: Listed[PositiveFloat]
    """Numbers of pieces; the first is one piece, which `call_s` and the rate of the next number give."""
    piece_bytes: Listed[PositiveFloat]
    reference_bytes_per_s: PositiveFloat
    """What large pieces reached on that card."""
    cliff_bytes: PositiveInt
    """From this size of a piece on its copy engine runs at the link's rate."""
    call_s: PositiveFloat
    mechanism: str
    low_frac: float
    high_frac: float
    spread_source: str
    source: str
    rate_gb_per_s: dict[str, Listed[PositiveFloat]]
    """GB/s for all of `pieces` but the first, by bytes of a piece."""


class LinkAssumptions(Strict):
    """How a link behaves besides its rate."""

    both_ways_slowdown_frac: NonNegativeFloat
    both_ways_source: str
    compute_slowdown_frac: NonNegativeFloat
    compute_source: str
    submit_s: PositiveFloat
    submit_source: str


class Sync(Strict):
    """The host waiting for the device and reading page ids back."""

    time_s: PositiveFloat
    source: str


class Decision(Strict):
    """Host time of one decision: fixed and by selected page."""

    fixed_s: PositiveFloat
    page_s: PositiveFloat
    low_frac: float
    high_frac: float
    source: str


class Eager(Strict):
    """Launches from Python, one by one."""

    tail_s: PositiveFloat
    tail_source: str
    launches_source: str
    launches: dict[str, PositiveInt]
    """Launches of each segment."""


class Assumptions(Strict):
    """All of them."""

    top_k: TopK
    copy_pieces: Copy
    link: LinkAssumptions
    sync: Sync
    decide: Decision
    stream: Decision
    eager: Eager


@cache
def load_assumptions() -> Assumptions:
    """Return the assumptions that ship."""
    return validate(Assumptions, read_toml(DATA, CalibrationError), where=DATA.name, error=CalibrationError)
