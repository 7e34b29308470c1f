"""The frozen profile: what things cost on one machine for one model; `calibrate` writes it, the simulator reads it.

Every cost is a `CostTable`: medians of samples on a grid, interpolated linearly (in log space it costs
accuracy), with the residuals of the samples around it and the range that was measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import tomli_w
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from kvsim.errors import CalibrationError, ScenarioError
from kvsim.profile.columns import misnamed, upgraded
from kvsim.profile.serving import ServingCosts
from kvsim.profile.tables import CostTable, Row
from kvsim.scenario.checks import differing_fields
from kvsim.scenario.shapes import ModelShape, Quantisation
from kvsim.scenario.toml import Strict, read_toml, validate
from kvsim.scenario.whole_files import write_whole

SCHEMA_VERSION: Final = 2
_READ_TOO = 1


SEGMENTS = ("embed", "attention_input", "select", "attention", "attention_output", "head")
"""The work of a decode step, in order; the middle four once a layer. `attention_output` holds projection and MLP."""

SPECULATE = "speculate"
"""What a layer pays where the next one's scores are predicted: its norm, query and scores. A profile may lack it."""

SHOWN_AS = {SPECULATE: "select"}
"""Segments whose time is reported as that of another: in the rows and the compute lane, scoring is scoring."""


class SegmentCost(Strict):
    """One segment of work: ``end = max(start + device_s, host_end + tail_s)`` with three numbers of its own.

    On a synchronous machine (a CPU) the host is the device: `host` is absent and the segment takes `device`.
    """

    device: CostTable
    host: CostTable | None = None
    """Host time to launch it; absent: none."""
    tail_s: NonNegativeFloat = 0.0
    """Device time left after the host's last launch, when the host is the bottleneck."""


class LinkCost(Strict):
    """One direction of the link between host and device."""

    transfer: CostTable
    """Seconds of one transfer over pieces x bytes of one piece, the link idle."""
    submit_s: NonNegativeFloat
    """Host time to hand over one transfer."""
    mechanism: str
    """How it copies: ``emulated``, ``memcpy``, ``staged-gather`` ..."""

    def transfer_s(self, num_pieces: int, piece_bytes: int) -> float:
        """Return the time of one transfer of `num_pieces` pieces over the idle link; none for no pieces."""
        return self.transfer.at_s(num_pieces, piece_bytes=piece_bytes) if num_pieces else 0.0


class Link(Strict):
    """The two copy engines, how transfers are issued and what they do to compute."""

    emulated: bool
    """True where a worker thread, or a kernel that waits on a GPU's copy stream, held each transfer to the stated
    bandwidth."""
    issue: Literal["worker", "stream"]
    """``worker``: whoever is idle takes demand first. ``stream``: no reordering once issued; see `window_transfers`."""
    stated_bandwidth_bytes_per_s: PositiveFloat | None = None
    to_device: LinkCost
    to_host: LinkCost
    both_ways_slowdown_frac: NonNegativeFloat = 0.0
    """How much longer a transfer takes while the other direction is busy too."""
    compute_slowdown_frac: NonNegativeFloat = 0.0
    """How much longer compute takes while a transfer to the device runs."""


class Machine(Strict):
    """Where and with what a profile was measured."""

    host: str
    processor: str
    device: str
    driver: str = ""
    num_threads: int
    os: str
    python: str
    versions: dict[str, str]
    date: str
    command: str
    commit: str = ""
    kernels: str = ""
    """Digest of the engine's source that was timed; empty in profiles that are older than it."""


class Profile(Strict):
    """What things cost on one machine for one model shape."""

    schema_version: Literal[2]
    name: str
    kind: Literal["measured", "published", "estimated", "exact"]
    """``published``, ``estimated``: no measurement of ours; every table carries the `source` of its numbers. ``exact``:
    stated costs without an interval, for trials of thought; tables of the other kinds all have one."""
    notes: str = ""
    device: Literal["cpu", "cuda"]
    synchronous: bool
    """True where a launch returns when its work is done (CPU): the host is then the compute stream."""
    runtime: Literal["eager", "graph"]
    device_memory_bytes: PositiveInt
    page_tokens: Row[PositiveInt]
    """Page sizes that the tables over pages were measured at."""
    shape: ModelShape
    quantisation: Quantisation | None = None
    """How the weights were packed that were measured."""
    scaled_from: str | None = None
    """The model that the tables were measured for, where they were scaled to this shape by rule; never in a file."""
    machine: Machine
    segments: dict[str, SegmentCost]
    sync_s: NonNegativeFloat
    """Host time to wait for the device and read back page ids and scores, its own work apart."""
    policies: dict[str, CostTable]
    """Host time of one decision, by policy name; ``*`` is for any other.

    Over pages selected by the batch x pages of the whole grid (`PageGrid.num_pages`).
    """
    link: Link
    prefill: CostTable | None = None
    """Seconds to prefill new tokens x cached ones before them."""
    caches: dict[str, CostTable] = {}
    """What the other caches of an LLM cost, by name; a profile may lack them.

    ``forward@B``: one call of the model on a batch of B through transformers' own cache, over new tokens of each
    sequence x cached ones before them. Others: see docs/profiles.md.
    """
    serving: ServingCosts | None = None
    """What a step of a serving engine costs; a profile may lack it."""
    instrument_s: NonNegativeFloat = 0.0
    """What the stamps added to one layer while the tables were measured; already taken off."""
    sources: dict[str, str] = {}
    """For published numbers that are no table: where each was published, by its dotted name."""

    @model_validator(mode="after")
    def _is_whole(self) -> Profile:
        missing = [name for name in SEGMENTS if name not in self.segments]
        unknown = [name for name in self.segments if name not in (*SEGMENTS, SPECULATE)]
        if missing or unknown:
            raise ValueError(
                f"segments must be {', '.join(SEGMENTS)}, and may be {SPECULATE}; missing {missing}, unknown {unknown}"
            )
        if complaints := list(misnamed(self.tables())):
            raise ValueError("; ".join(complaints))
        if self.kind in ("published", "estimated") and any(not table.source for table in self.tables().values()):
            raise ValueError(f"a profile of kind {self.kind!r} must give the source of every table")
        if self.kind != "exact":
            self._check_intervals()
        return self

    def _check_intervals(self) -> None:
        has_error_of_steps = self.serving is not None and self.serving.run_error_frac(0.0) > 0
        sure = [
            name
            for name, table in self.tables().items()
            if not (has_error_of_steps and name.startswith("serving."))
            and table.residual_high_frac <= table.residual_low_frac
            and any(map(any, table.time_s))
        ]
        if sure:
            raise ValueError(
                f"a profile of kind {self.kind!r} must say how far each table may be off: residual_high_frac is not "
                f"above residual_low_frac in {', '.join(sure[:3])}{' and others' if len(sure) > 3 else ''}; costs that "
                "are only stated are of kind 'exact'"
            )

    def tables(self) -> dict[str, CostTable]:
        """Return every table by a dotted name."""
        tables = {f"segments.{name}": cost.device for name, cost in self.segments.items()}
        tables |= {f"segments.{name}.host": cost.host for name, cost in self.segments.items() if cost.host}
        tables |= {f"policies.{name}": table for name, table in self.policies.items()}
        tables |= {"link.to_device": self.link.to_device.transfer, "link.to_host": self.link.to_host.transfer}
        tables |= {f"caches.{name}": table for name, table in self.caches.items()}
        tables |= {f"serving.{name}": table for name, table in (self.serving.tables() if self.serving else {}).items()}
        return tables | ({"prefill": self.prefill} if self.prefill else {})

    def segment(self, name: str) -> SegmentCost:
        """Return what a segment costs.

        Raises
        ------
        CalibrationError
            If the profile was made before there was such a segment, or the model has none.
        """
        cost = self.segments.get(name)
        if cost is None:
            advice = self.advice
            if self.shape.paged_layers == 1:
                advice = "its model has one layer with pages and none to predict: take another policy or channel"
            raise CalibrationError(
                f"profile {self.name}: no cost of segment {name!r}, which predicting the next layer's scores takes; "
                f"{advice}"
            )
        return cost

    def cache_cost(self, name: str) -> CostTable:
        """Return what another cache costs, by its name in `caches`.

        Raises
        ------
        CalibrationError
            If the profile has none of that name.
        """
        if name not in self.caches:
            known = ", ".join(sorted(self.caches)) or "none of the other caches"
            raise CalibrationError(f"profile {self.name}: no cost {name!r}; it has {known}; {self.advice}")
        return self.caches[name]

    @property
    def advice(self) -> str:
        """What to do where it lacks a cost: only what was measured can be measured again."""
        if self.kind == "measured":
            return "calibrate again"
        return f"it is {self.kind}, not measured: take one that `kvsim calibrate` wrote"

    def decision_cost(self, policy: str) -> str:
        """Return the name in `policies` of the table that stands for decisions of `policy`.

        A policy that was never timed takes the table ``*``, which a profile may give for any other; else a built-in
        evictor takes that of ``lru``, and what may cost more, an evictor with a prefetcher or an admission,
        ``predictive`` and somebody else's policy, that of ``attention``. `stands_in` returns it.

        Raises
        ------
        CalibrationError
            If the profile has none of these.
        """
        evictor, *parts = policy.split("+")
        is_cheap = not parts and ":" not in policy and policy != "predictive"
        for name in (policy, "*", *(["lru"] if is_cheap else ["attention", evictor, "lru"])):
            if name in self.policies:
                return name
        raise CalibrationError(
            f"profile {self.name}: no cost of policy {policy!r} and none to stand in for it; time it on the profile's "
            f"machine: kvsim policy time {evictor} --profile FILE -o FILE"
        )

    def stands_in(self, policy: str) -> str | None:
        """Return whose table stands for the decisions of `policy`; None where they are its own, or all policies'."""
        name = self.decision_cost(policy)
        return None if name in (policy, "*") else name

    def decide_s(self, policy: str, pages: int, grid_pages: int) -> float:
        """Return the host time of one decision of `policy` over `pages` selected pages of `grid_pages` in all."""
        table = self.policies.get(policy) or self.policies[self.decision_cost(policy)]
        return table.at_s(pages, grid_pages=grid_pages)


def load_profile(path: Path) -> Profile:
    """Return the profile in the TOML file `path`.

    Raises
    ------
    CalibrationError
        If it cannot be read, is of another schema version, or breaks the schema.
    """
    tables = read_toml(path, CalibrationError)
    version = tables.get("schema_version")
    if version == _READ_TOO:
        tables = upgraded(tables)
    elif version != SCHEMA_VERSION:
        raise CalibrationError(
            f"{path}: schema_version {version!r}, this kvsim reads {SCHEMA_VERSION}; calibrate again"
        )
    return validate(Profile, tables, where=str(path), error=CalibrationError)


def check_made_for(
    profile: Profile, shape: ModelShape, quantisation: Quantisation | None = None, *, where: str
) -> None:
    """Refuse a profile of another model shape, or of weights packed otherwise.

    Raises
    ------
    ScenarioError
        Naming the fields that differ.
    """
    way_out = "or set profile.allow_other_shape = true"
    if profile.shape != shape:
        raise ScenarioError(
            f"{where}: profile {profile.name!r} was made for another model shape than the scenario's, in these fields: "
            f"{differing_fields(profile.shape, shape)}; set model.shape to the model that was calibrated, "
            f"calibrate this shape, {way_out}"
        )
    if profile.quantisation != quantisation:
        raise ScenarioError(
            f"{where}: profile {profile.name!r} was made with {profile.quantisation or 'unpacked'} weights, "
            f"the scenario has {quantisation or 'unpacked'} ones; calibrate such weights with --quantisation, {way_out}"
        )


def write_profile(profile: Profile, path: Path) -> None:
    """Write `profile` as TOML, whole or not at all."""
    text = tomli_w.dumps(profile.model_dump(mode="json", exclude_none=True))
    try:
        write_whole(path, text.encode())
    except OSError as problem:
        raise CalibrationError(f"{path}: cannot write the profile: {problem.strerror}") from None
