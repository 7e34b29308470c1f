"""A result simulated again on hardware or settings one does not have: from the scenario that its manifest holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvsim.errors import ResultError, ScenarioError
from kvsim.experiments.decode.entry import Entry
from kvsim.experiments.decode.simulate import Progress, simulate
from kvsim.experiments.provenance import REPLAYED_ROLES, changed_inputs
from kvsim.experiments.types import Job, ignore
from kvsim.profile.hypothetical import CHANGES, PREFIX, changed_profile, is_profile_change
from kvsim.profile.profile import Profile
from kvsim.report.reading import reading
from kvsim.report.results import RunResult
from kvsim.scenario.decode import ProfileChoice, Scenario
from kvsim.scenario.file import parse_scenario
from kvsim.scenario.toml import nearest
from kvsim.traces.access.arrays import NAME as IN_MEMORY

HYPOTHETICAL = "Hypothetical: nobody measured {name}. Its costs are those of the profile, changed as its name says."


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One cell before and after."""

    policy: str
    swept: dict[str, Any]
    """The fields that still vary."""
    before: Entry
    after: Entry

    @property
    def tpot_ratio(self) -> float:
        """Time per token after over before."""
        return self.after["tpot_p50_s"] / self.before["tpot_p50_s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """A result, and what it would be."""

    changes: tuple[str, ...]
    pairs: tuple[Pair, ...]
    result: RunResult
    """The changed run; its verdict says what is hypothetical and what lies outside the profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a result was made from, as its manifest holds it."""

    tables: Mapping[str, Any]
    """The scenario as it was resolved."""
    text: str
    overrides: tuple[str, ...]
    base_dir: Path | None
    """Where relative paths start, if not here."""

    def scenario(self, changes: Sequence[str] = ()) -> Scenario:
        """Return the scenario with ``KEY=VALUE`` changes applied.

        Raises
        ------
        ScenarioError
            With a line for every error.
        """
        return parse_scenario(Scenario, self.tables, changes, where="whatif")


def origin_of(result: RunResult, command: str = "whatif") -> Origin:
    """Return what a simulated decode result was made from.

    Raises
    ------
    ResultError
        If it is another experiment's, was measured, replays what no scenario names, does not record its scenario, or
        has a damaged manifest.
    """
    with reading(f"{command}: the manifest"):
        return _origin(result, command)


def _origin(result: RunResult, command: str) -> Origin:
    kind = result.summary.get("kind")
    if kind is not None:
        raise ResultError(
            f"{command}: takes results of decode that `kvsim run` or `kvsim sweep` wrote; this is of {kind}"
        )
    if result.summary.get("is_measured"):
        raise ResultError(f"{command}: the result was measured; give one that `kvsim run` or `kvsim sweep` wrote")
    if "what_if" in result.summary:
        raise ResultError(f"{command}: the result is a what-if itself; give the result that it was made from")
    manifest = result.manifest
    if manifest.get("recorded") is not None:
        raise ResultError(f"{command}: the result replays a measured one; simulate its scenario without --trace first")
    if IN_MEMORY in manifest.get("accesses", {}):
        raise ResultError(f"{command}: the result replays accesses that no file holds; run it again with the changes")
    tables, base_dir = manifest.get("resolved"), manifest.get("base_dir")
    if not isinstance(tables, dict):
        raise ResultError(
            f"{command}: the result does not record the scenario that made it, as older ones do not; run it again"
        )
    return Origin(
        tables=tables,
        text=str(manifest.get("scenario", "")),
        overrides=tuple(map(str, manifest.get("overrides", ()))),
        base_dir=Path(base_dir) if base_dir else None,
    )


def whatif(result: RunResult, changes: Sequence[str], *, command: str = "", progress: Progress | None = None) -> WhatIf:
    """Simulate what made `result` again with `changes`, and pair its cells with the first.

    Parameters
    ----------
    changes
        ``KEY=VALUE``: fields of the scenario, and those of `kvsim.profile.hypothetical.CHANGES`, as in
        ``profile.link_bandwidth=x2``.

    Raises
    ------
    KvsimError
        If the result does not record what made it, a file has changed since, or the changed scenario cannot be
        simulated.
    """
    origin = origin_of(result)
    if origin.scenario().hash != result.manifest.get("scenario_hash"):
        raise ResultError("whatif: the manifest's scenario is not the one that the result was made with; run it again")
    scenario, change = applied(origin, changes)
    check_unchanged(result, origin, scenario)
    job = Job(
        text=origin.text,
        overrides=(*origin.overrides, *changes),
        command=command,
        base_dir=origin.base_dir,
        progress=progress or ignore,
    )
    made = simulate(scenario, job, change_profile=change)
    summary = made.summary | {"what_if": list(changes)}
    if change is not None:
        summary["verdict"] = [*summary["verdict"], HYPOTHETICAL.format(name=summary["profile"]["name"])]
    pairs = tuple(paired(result.summary, summary))
    if not pairs:
        raise ScenarioError("whatif: no cell is in both: the changes leave no policy of the result")
    return WhatIf(
        changes=tuple(changes),
        pairs=pairs,
        result=RunResult(summary=summary, rows=made.rows, manifest=made.manifest),
    )


def check_unchanged(result: RunResult, origin: Origin, scenario: Scenario, command: str = "whatif") -> None:
    """Refuse to go on from a result where a file that it was made from, and that `scenario` still names, has changed.

    Raises
    ------
    ResultError
        Naming the file.
    """
    named = {
        cell.value_at(dotted)
        for dotted, role in Scenario.inputs.items()
        if role in ("profile", *REPLAYED_ROLES)
        for cell in scenario.cells
    }
    named |= {name for choice in scenario.run.policies for name in (choice.name, *choice.arguments.values())}
    lines = changed_inputs(result, origin.base_dir, named)
    if lines:
        raise ResultError(
            f"{command}: {'; '.join(lines)}: the figures of the result rest on what it was; run it again first"
        )


def applied(origin: Origin, changes: Sequence[str]) -> tuple[Scenario, Callable[[Profile], Profile] | None]:
    """Return the changed scenario, and how profiles change."""
    of_profile, of_scenario = [], []
    for change in changes:
        key, _, value = (part.strip() for part in change.partition("="))
        if key.startswith(PREFIX) and key.removeprefix(PREFIX) not in (*CHANGES, *ProfileChoice.model_fields):
            known = nearest(key.removeprefix(PREFIX), [*CHANGES, *ProfileChoice.model_fields])
            raise ScenarioError(f"--set {key}: neither a field of the scenario nor a change of the profile{known}")
        if is_profile_change(key):
            of_profile.append((key, value.strip("\"'")))
        else:
            of_scenario.append(change)

    def change_profile(profile: Profile) -> Profile:
        for key, value in of_profile:
            profile = changed_profile(profile, key, value)
        return profile

    return origin.scenario(of_scenario), change_profile if of_profile else None


def paired(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Pair]:
    """Yield the cells of two summaries that agree in policy and in what still varies, in the first's order."""
    keys = [key for key in after["swept"] if key in before["swept"]]
    others = {(cell["policy"], *(cell[key] for key in keys)): cell for cell in after["cells"]}
    for cell in before["cells"]:
        other = others.get((cell["policy"], *(cell[key] for key in keys)))
        if other is not None:
            yield Pair(
                policy=cell["policy"], swept={key: cell[key] for key in before["swept"]}, before=cell, after=other
            )
