"""The fitted coefficients that ship, and how wrong they were on what they had not seen."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from kvsim.errors import CalibrationError
from kvsim.profile.cards.card import Card
from kvsim.profile.estimate.roofline import Roofline
from kvsim.scenario.toml import Listed, Strict, read_toml, validate

DATA = Path(__file__).with_name("coefficients.toml")


class Residuals(Strict):
    """Quantiles of measured / estimated - 1."""

    low_frac: float
    """5th percentile."""
    median_frac: float
    high_frac: float
    """95th percentile."""
    median_error_frac: NonNegativeFloat
    """Median of the absolute value."""


class Kind(Strict):
    """One kind of kernel: its coefficients, what they were fitted on, and residuals by what was left out of the fit."""

    roofline: Roofline
    source: str
    num_rows: PositiveInt
    cards: Listed[str]
    card_out: Residuals
    """Of a card whose own rows were left out, its architecture's others left in."""
    architecture_out: Residuals
    """Of a card with its whole architecture left out."""
    vendor_out: Residuals
    """Of a card of another vendor than those fitted."""
    shape_out: Residuals
    """Of rows whose shapes were left out, a tenth of the shapes at a time."""

    def residuals_for(self, card: Card, architectures: tuple[str, ...]) -> Residuals:
        """Return the residuals that hold for `card`: the farther it is from the fitted ones, the wider."""
        if card.architecture in architectures:
            return self.card_out
        return self.architecture_out if card.architecture.startswith("sm_") else self.vendor_out


class HostTime(Strict):
    """Host time of one runtime, from public figures of complete steps."""

    time_s: PositiveFloat
    low_frac: float
    high_frac: float
    source: str


class Coefficients(Strict):
    """What `profiles/estimated/fit.py` writes."""

    schema_version: PositiveInt
    package: str
    wheel_record_sha256: str
    date: str
    command: str
    architectures: Listed[str]
    """Architectures with tables."""
    graph_step: HostTime
    """Host time of a step whose kernels are launched as one graph."""
    eager_layer: HostTime
    """Host time of a layer whose kernels are launched one by one from Python."""
    kinds: dict[str, Kind]


@cache
def load_coefficients() -> Coefficients:
    """Return the coefficients that ship."""
    return validate(Coefficients, read_toml(DATA, CalibrationError), where=DATA.name, error=CalibrationError)
