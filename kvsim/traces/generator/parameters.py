"""The stated parameters of generated accesses, layer by layer, as a TOML file a person can read and change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tomli_w
from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from kvsim.errors import TraceError
from kvsim.scenario.toml import Strict, read_toml, validate
from kvsim.scenario.whole_files import write_whole
from kvsim.types import UNIT_TOKENS

SCHEMA_VERSION = 1

PROFILE_SCORES = (-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0)
"""Normal scores of the rank of a page at which a mass profile has values."""

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Persistence: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Nats: TypeAlias = Annotated[float, Field(ge=0, le=20)]
"""A standard deviation, or a step, of a natural logarithm."""


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class EstimateParameters(Strict):
    """How a selector's score of a page follows from its mass: ``log score = slope * log mass + noise``."""

    slope: Annotated[float, Field(ge=0, le=20)]
    noise_spread_nats: Nats
    noise_persistence_per_step: Persistence
    """Correlation of a page's noise with that of the step before."""


class LayerParameters(Strict):
    """The accesses of one layer (formulae in docs/traces.md). The middle holds what sink and recent pages do not."""

    sink_frac: Share
    """Mass of the first page."""
    recent_frac: Share
    """Mass of the last 128 tokens' pages."""
    recency_exponent: Annotated[float, Field(ge=0, le=10)]
    """Within them, the mass of a token falls with this power of its age."""
    near_exponent: Annotated[float, Field(ge=0, le=10)]
    """Before them, weight falls with this power of a page's age, up to 1024 tokens."""
    attraction_spread_nats: Nats
    """Spread over middle pages of the log-weight that never changes."""
    dynamic_spread_nats: Nats
    """Spread of the log-weight that wanders."""
    persistence_per_step: Persistence
    """Correlation of the wandering log-weight with that of the step before."""
    jitter_spread_nats: Nats
    """Spread of the log-weight that every step draws anew."""
    shift_rate_per_step: Share
    """Chance of a phase shift at a step; layers shift together, those of a lower rate less often."""
    shift_redraw_frac: Share
    """Share of the wandering log-weight's variance that a shift draws anew."""
    burst_rate_per_step: Annotated[float, Field(ge=0, le=100)]
    """Middle pages that become needles at a step, in the mean."""
    burst_size_nats: Nats
    """Added to a needle's log-weight."""
    burst_duration_steps: Annotated[int, Field(ge=1, le=1_000_000)]
    mass_profile_nats: Annotated[tuple[Annotated[float, Field(ge=-60, le=60)], ...], BeforeValidator(_as_tuple)] = ()
    """Log-weight of the middle page whose rank has each of `PROFILE_SCORES`; empty: what the spreads above give.

    With a profile the log-weights decide which page has which rank, and the profile what a rank weighs.
    """
    layer_affinity_corr: Annotated[float, Field(ge=0, le=1)]
    """Correlation of the log-weights with those of the layer before; 0 in the first."""
    estimate: EstimateParameters | None = None
    """None where the channel says nothing, as a speculation on the first layer: its scores are then 0."""

    @model_validator(mode="after")
    def _leaves_a_middle(self) -> LayerParameters:
        if self.sink_frac + self.recent_frac > 1:
            raise ValueError(f"sink_frac + recent_frac is {self.sink_frac + self.recent_frac:.4g}, more than 1")
        return self

    @model_validator(mode="after")
    def _has_a_whole_profile(self) -> LayerParameters:
        profile = self.mass_profile_nats
        if profile and (len(profile) != len(PROFILE_SCORES) or list(profile) != sorted(profile)):
            raise ValueError(f"mass_profile_nats should be {len(PROFILE_SCORES)} numbers that do not fall")
        return self


class RecallAt(Strict):
    """Attention recall where so many pages are read besides the first one and the last 128 tokens'."""

    k_pages: PositiveInt
    trace_frac: Share
    """Of the trace."""
    generated_frac: Share
    """Of accesses generated at the trace's own length and layers."""

    @property
    def bias_frac(self) -> float:
        """How much more than the trace the generator keeps; negative: less."""
        return self.generated_frac - self.trace_frac


class GeneratorParameters(Strict):
    """Everything that `SyntheticSource` draws from, for pages of one size."""

    schema_version: Literal[1] = 1
    fitted_to: str = ""
    """The trace, where there was one."""
    page_tokens: PositiveInt
    context_tokens: PositiveInt
    """Context that the shares of sink, recent window and middle were seen at."""
    channel: str | None = None
    """The estimate's channel, as in ``estimate:quest``; None generates ``mass`` alone."""
    recall: Annotated[tuple[RecallAt, ...], BeforeValidator(_as_tuple)] = ()
    """What the fit found of the generator's attention recall; nothing where parameters were only stated."""
    layers: Annotated[tuple[LayerParameters, ...], BeforeValidator(_as_tuple), Field(min_length=1)]

    @model_validator(mode="after")
    def _fits_units(self) -> GeneratorParameters:
        if self.page_tokens % UNIT_TOKENS:
            raise ValueError(f"page_tokens must be a multiple of {UNIT_TOKENS}, found {self.page_tokens}")
        return self

    def layer_for(self, layer: int, num_layers: int) -> LayerParameters:
        """Return the parameters of the layer at the same relative depth as `layer` of `num_layers`."""
        return self.layers[same_depth(layer, num_layers, len(self.layers))]


def same_depth(layer: int, num_layers: int, source_layers: int) -> int:
    """Return ``round(layer * (source_layers - 1) / (num_layers - 1))``, a half rounded up; 0 of a single layer.

    Examples
    --------
    >>> [same_depth(layer, 5, 3) for layer in range(5)]
    [0, 1, 1, 2, 2]
    >>> same_depth(31, 32, 30)
    29
    """
    if num_layers == 1:
        return 0
    return (2 * layer * (source_layers - 1) + num_layers - 1) // (2 * (num_layers - 1))


def load_parameters(path: Path) -> GeneratorParameters:
    """Return the parameters in the TOML file `path`.

    Raises
    ------
    TraceError
        If it cannot be read, is of another schema version, or breaks the schema.
    """
    tables = read_toml(path, _LineError)
    version = tables.get("schema_version")
    if version != SCHEMA_VERSION:
        raise TraceError(path, f"schema_version {version!r}, this kvsim reads {SCHEMA_VERSION}; fit the trace again")
    return validate(GeneratorParameters, tables, where=str(path), error=_LineError)


def write_parameters(parameters: GeneratorParameters, path: Path) -> None:
    """Write `parameters` as TOML, whole or not at all."""
    text = tomli_w.dumps(parameters.model_dump(mode="json", exclude_none=True))
    try:
        write_whole(path, text.encode())
    except OSError as problem:
        raise TraceError(path, f"cannot be written: {problem.strerror}") from None


class _LineError(TraceError):
    """A `TraceError` from a whole message that already begins with the path."""

    def __init__(self, message: str) -> None:
        path, _, problem = message.partition(": ")
        super().__init__(path, problem)
