"""The seconds of kernels on one card, alone and summed to a table of a profile, with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvsim.errors import ScenarioError
from kvsim.profile.cards.card import Card
from kvsim.profile.estimate.coefficients import Coefficients
from kvsim.profile.estimate.kernels import Kernel
from kvsim.profile.tables import Amount, Column, CostTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Seconds with the shares by which the true time may lie below and above."""

    time_s: float
    low_frac: float
    high_frac: float

    def times(self, count: float) -> Price:
        """Return the price of `count` such parts, one after the other."""
        return Price(time_s=self.time_s * count, low_frac=self.low_frac, high_frac=self.high_frac)


Work = Sequence[Kernel | Price]
"""What a segment does: kernels, and parts that have a price of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """Fitted coefficients applied to one card."""

    card: Card
    coefficients: Coefficients

    def price(self, kernel: Kernel) -> Price:
        """Return what `kernel` takes on the card.

        Raises
        ------
        ScenarioError
            If the card has no matrix rate for the kernel's number format.
        """
        rate_flop_per_s = self.card.rate_flop_per_s(kernel.number_format)
        if rate_flop_per_s is None and kernel.flop:
            raise ScenarioError(
                f"card {self.card.name}: no matrix rate for {kernel.number_format}; choose another dtype of the model"
            )
        kind = self.coefficients.kinds[kernel.kind]
        time_s = kind.roofline.time_s(
            kernel.moved_bytes,
            kernel.flop,
            self.card.memory_bandwidth_bytes_per_s,
            rate_flop_per_s or 1.0,
            units=kernel.units,
        )
        residuals = kind.residuals_for(self.card, self.coefficients.architectures)
        return Price(time_s=float(time_s), low_frac=residuals.low_frac, high_frac=residuals.high_frac)

    def total(self, work: Work) -> Price:
        """Return the sum, its interval the mean of the parts' weighted by their time.

        Errors of one card are of one sign over the kernels of a kind, so parts do not average out.
        """
        prices = [self.price(part) if isinstance(part, Kernel) else part for part in work]
        time_s = sum(part.time_s for part in prices)
        return Price(
            time_s=time_s,
            low_frac=sum(part.time_s * part.low_frac for part in prices) / time_s,
            high_frac=sum(part.time_s * part.high_frac for part in prices) / time_s,
        )

    def by_batch(self, work: Callable[[float], Work], batches: Sequence[float], *, source: str) -> CostTable:
        """Return the cost over batches of what does not depend on the context; the interval is the widest of them."""
        return self.by_amount(lambda _, batch: work(batch), "none", (0.0,), batches, source=source)

    def by_amount(
        self,
        work: Callable[[float, float], Work],
        amount: Amount,
        amounts: Sequence[float],
        columns: Sequence[float],
        *,
        columns_are: Column = "sequences",
        source: str,
    ) -> CostTable:
        """Return the cost over amounts and columns, by default sequences; the interval is the widest."""
        totals = [[self.total(work(count, column)) for column in columns] for count in amounts]
        every = [total for row in totals for total in row]
        return CostTable(
            amount=amount,
            amounts=tuple(amounts),
            columns_are=columns_are,
            columns=tuple(columns),
            time_s=tuple(tuple(_rounded(total.time_s) for total in row) for row in totals),
            residual_low_frac=round(min(total.low_frac for total in every), 4),
            residual_high_frac=round(max(total.high_frac for total in every), 4),
            source=source,
        )


def _rounded(time_s: float) -> float:
    return float(f"{time_s:.6g}")
