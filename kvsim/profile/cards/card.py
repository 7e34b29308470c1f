"""The data sheet of one card: memory, bandwidths and matrix rates, each with where it is from."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, PositiveFloat, PositiveInt, model_validator

from kvsim.scenario.file import as_bytes
from kvsim.scenario.toml import Listed, Strict, nearest

RATES = ("bf16", "fp16", "fp8", "int8")
"""Number formats that a card may have a matrix rate for."""

FIGURES = (
    "memory_bytes",
    "cuda_memory_bytes",
    "memory_bandwidth_bytes_per_s",
    *(f"{rate}_flop_per_s" for rate in RATES),
    "link_nominal_bytes_per_s",
    "link_achieved_bytes_per_s",
)
"""Fields that are figures: each has a source in the cards that ship."""

Bytes: TypeAlias = Annotated[PositiveInt, BeforeValidator(as_bytes)]
"""A size, or a rate in bytes a second, above zero: ``"24 GiB"`` or whole bytes."""


class Card(Strict):
    """What a card's data sheet says; rates are dense, bandwidths one way.

    Sources are text by the name of the figure; `unchecked` names figures that no public text agreed with.
    """

    name: str
    title: str
    vendor: Literal["nvidia", "amd", "intel", "apple", "other"]
    architecture: str = "unknown"
    """Compute capability (``sm_89``) or the vendor's name of the generation: decides which interval an estimate has."""
    memory_bytes: Bytes
    """Total that the driver reports."""
    cuda_memory_bytes: Bytes | None = None
    """Total that an application sees, which is less; None where it was not found."""
    memory_bandwidth_bytes_per_s: Bytes
    bf16_flop_per_s: PositiveFloat | None = None
    fp16_flop_per_s: PositiveFloat | None = None
    fp8_flop_per_s: PositiveFloat | None = None
    int8_flop_per_s: PositiveFloat | None = None
    link: str = ""
    """The link to the host, by name."""
    link_nominal_bytes_per_s: Bytes | None = None
    link_achieved_bytes_per_s: Bytes | None = None
    """Large copies from pinned memory to the device, as measured."""
    unified_memory: bool = False
    """True where processor and GPU share one memory: there is then no link."""
    notes: str = ""
    unchecked: Listed[str] = ()
    sources: dict[str, str] = {}

    @model_validator(mode="after")
    def _is_whole(self) -> Card:
        for name in (*self.unchecked, *self.sources):
            if name not in FIGURES:
                raise ValueError(f"{name!r} is no figure of a card{nearest(name, FIGURES)}")
        if self.bf16_flop_per_s is None and self.fp16_flop_per_s is None:
            raise ValueError("give bf16_flop_per_s or fp16_flop_per_s, the dense matrix rate")
        if self.unified_memory:
            if self.link_nominal_bytes_per_s or self.link_achieved_bytes_per_s:
                raise ValueError("unified_memory = true: there is no link, leave its bandwidths out")
            return self
        if self.link_nominal_bytes_per_s is None or self.link_achieved_bytes_per_s is None:
            raise ValueError("give link_nominal_bytes_per_s and link_achieved_bytes_per_s, or unified_memory = true")
        if self.link_achieved_bytes_per_s > self.link_nominal_bytes_per_s:
            raise ValueError("link_achieved_bytes_per_s is above link_nominal_bytes_per_s, which no link is")
        return self

    @property
    def usable_memory_bytes(self) -> int:
        """Memory that an application can have: what it sees where that is known, else the driver's total."""
        return self.cuda_memory_bytes or self.memory_bytes

    @property
    def copy_bytes_per_s(self) -> float:
        """Bandwidth of a large copy from the host; in unified memory it reads and writes the one memory."""
        return self.link_achieved_bytes_per_s or self.memory_bandwidth_bytes_per_s / 2

    def rate_flop_per_s(self, number_format: str) -> float | None:
        """Return the dense matrix rate in `number_format`; None where the card has none."""
        rate: float | None = getattr(self, f"{number_format}_flop_per_s")
        return rate

    def figures(self) -> dict[str, float]:
        """Return the figures that this card has, by name."""
        values = ((name, getattr(self, name)) for name in FIGURES)
        return {name: value for name, value in values if value is not None}
