"""A result simulated again on hardware or settings one does not have; and which value of a field reaches a figure."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvsim.errors import KvsimError, ResultError, ScenarioError
from kvsim.experiments.decode.simulate import Progress, simulate
from kvsim.experiments.types import Job, ignore
from kvsim.profile.hypothetical import CHANGES, PREFIX, changed_profile, is_profile_change
from kvsim.profile.profile import Profile
from kvsim.report.results import RunResult
from kvsim.scenario.decode import ProfileChoice, Scenario, load_scenario
from kvsim.scenario.shipped import find_scenario
from kvsim.scenario.toml import nearest

HYPOTHETICAL = "Hypothetical: nobody measured {name}. Its costs are those of the profile, changed as its name says."


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One cell before and after."""

    policy: str
    swept: dict[str, Any]
    """The fields that still vary."""
    before: Mapping[str, Any]
    after: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """A result beside what it would be."""

    changes: tuple[str, ...]
    pairs: tuple[Pair, ...]
    result: RunResult
    """The changed run; its verdict says what is hypothetical and what lies outside the profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a result was made from."""

    text: str
    overrides: tuple[str, ...]
    beside: Path | None
    """Where relative paths start, if not here."""


def origin_of(result: RunResult) -> Origin:
    """Return what a simulated decode result was made from, as its manifest tells.

    Raises
    ------
    ResultError
        If it was measured, replays a measurement, or was made by a program that did not say how.
    """
    if result.summary.get("is_measured"):
        raise ResultError("whatif: the result was measured; give one that `kvsim run` or `kvsim sweep` wrote")
    if "what_if" in result.summary:
        raise ResultError("whatif: the result is a what-if itself; give the result that it was made from")
    overrides, others = _split(shlex.split(str(result.manifest.get("command", ""))))
    if any(word.partition("=")[0] == "--trace" for word in others):
        raise ResultError("whatif: the result replays a measured one; simulate its scenario without --trace first")
    beside = None
    for word in others[2:]:
        try:
            beside = find_scenario(word).parent
            break
        except ScenarioError:
            continue
    return Origin(text=str(result.manifest.get("scenario", "")), overrides=tuple(overrides), beside=beside)


def scenario_from(origin: Origin, changes: Sequence[str] = ()) -> Scenario:
    """Return the scenario that made a result, with ``KEY=VALUE`` changes applied.

    Raises
    ------
    ScenarioError
        With a line for every fault.
    """
    with tempfile.TemporaryDirectory(prefix="kvsim-whatif-") as folder:
        path = Path(folder) / "scenario.toml"
        path.write_text(origin.text, encoding="utf-8")
        try:
            return load_scenario(path, [*origin.overrides, *changes])
        except ScenarioError as problem:
            raise ScenarioError(str(problem).replace(f"{path} with --set: ", "").replace(f"{path}: ", "")) from None


def whatif(result: RunResult, changes: Sequence[str], *, command: str = "", progress: Progress | None = None) -> WhatIf:
    """Simulate what made `result` again with `changes`, and put its cells beside the first.

    Parameters
    ----------
    changes
        ``KEY=VALUE``: fields of the scenario, and those of `kvsim.profile.hypothetical.CHANGES`, as in
        ``profile.link_bandwidth=x2``.

    Raises
    ------
    KvsimError
        If the result does not tell what made it, or the changed scenario cannot be simulated.
    """
    origin = origin_of(result)
    first = scenario_from(origin)
    if first.hash != result.manifest.get("scenario_hash"):
        raise ResultError("whatif: the manifest does not tell with which settings the result was made; run it again")
    scenario, change = _applied(origin, changes)
    job = Job(text=origin.text, command=command, base_dir=origin.beside, progress=progress or ignore)
    found = simulate(scenario, job, change_profile=change)
    summary = found.summary | {"what_if": list(changes)}
    if change is not None:
        summary["verdict"] = [*summary["verdict"], HYPOTHETICAL.format(name=summary["profile"]["name"])]
    pairs = tuple(_pairs(result.summary, summary))
    if not pairs:
        raise ScenarioError("whatif: no cell is in both: the changes leave no policy of the result")
    return WhatIf(
        changes=tuple(changes),
        pairs=pairs,
        result=RunResult(summary=summary, rows=found.rows, manifest=found.manifest),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """Which value of a field reaches a wanted figure, for one policy."""

    policy: str
    tried: tuple[tuple[float, float | None], ...]
    """Values in the order of size, each with the figure; None where it cannot be simulated."""
    reached: float | None
    """The value nearest the other end that still reaches it; None where neither end does."""
    missed: float | None
    """The next value tried that does not; None where all do."""


def reach(
    result: RunResult, figure: str, most: float, key: str, low: float, high: float, *, changes: Sequence[str] = ()
) -> list[Reached]:
    """Return, for each policy, from which value of `key` between two bounds `figure` is at most `most`.

    The interval between a value that reaches it and one that does not is halved (in the logarithm) until the two are
    neighbours, for a whole number, or 2% apart. Both are told: that all values beyond reach it too was not tried.

    Parameters
    ----------
    key
        A field of the scenario with one number, or a change of the profile by a factor.
    changes
        ``KEY=VALUE`` to apply first; no field may be swept besides `key`.

    Raises
    ------
    KvsimError
        If more than one cell of a policy is left, there is no such figure, or nothing can be simulated.
    """
    origin = origin_of(result)
    scenario, _ = _applied(origin, changes)
    swept = [name for name in scenario.sweep if name != key]
    if swept:
        raise ScenarioError(f"whatif: {', '.join(swept)} vary; --set each to one value to search over {key}")
    if not 0 < low < high:
        raise ScenarioError(f"whatif: bounds of {key} should be LOW:HIGH with 0 < LOW < HIGH, found {low:g}:{high:g}")
    names = [choice.shown for choice in scenario.run.policies]
    return [
        _reached(_asking(origin, changes, key, figure, place), name, most, key, low, high)
        for place, name in enumerate(names)
    ]


def _asking(
    origin: Origin, changes: Sequence[str], key: str, figure: str, place: int
) -> Callable[[float], float | None]:
    def ask(value: float) -> float | None:
        text = f"x{value:.6g}" if is_profile_change(key) else f"{value:.6g}"
        try:
            scenario, change = _applied(origin, [*changes, f"{key}={text}"])
            alone = scenario.run.model_copy(update={"policies": (scenario.run.policies[place],)})
            single = scenario.model_copy(update={"run": alone})
            cell = simulate(single, Job(base_dir=origin.beside), change_profile=change).summary["cells"][0]
        except ScenarioError:
            raise
        except KvsimError:  # a budget below the minimum, a page size without a cost
            return None
        if figure not in cell:
            raise ScenarioError(f"whatif: no figure {figure!r} in a summary, as tpot_p50_s, stall_frac, device_bytes")
        found = cell[figure]
        return None if found is None else float(found)

    return ask


def _reached(
    ask: Callable[[float], float | None], policy: str, most: float, key: str, low: float, high: float
) -> Reached:
    step = _step(key, low, high)
    tried = {value: ask(value) for value in (low, high)}

    def meets(value: float) -> bool:
        found = tried[value]
        return found is not None and found <= most

    ends = meets(low), meets(high)
    if ends[0] == ends[1]:
        reached = low if ends[0] else None
        return Reached(policy=policy, tried=tuple(sorted(tried.items())), reached=reached, missed=None)
    good, bad = (low, high) if ends[0] else (high, low)
    while (middle := _middle(good, bad, step)) is not None:
        tried[middle] = ask(middle)
        good, bad = (middle, bad) if meets(middle) else (good, middle)
    return Reached(policy=policy, tried=tuple(sorted(tried.items())), reached=good, missed=bad)


def _step(key: str, low: float, high: float) -> int | None:
    """Return by what values of a field differ at least; None where they are no whole numbers."""
    if key == "page_tokens":
        return 16
    whole = (
        float(low).is_integer()
        and float(high).is_integer()
        and not is_profile_change(key)
        and not key.endswith("_frac")
    )
    return 1 if whole else None


def _middle(first: float, second: float, step: int | None) -> float | None:
    low, high = min(first, second), max(first, second)
    middle = float((low * high) ** 0.5)
    if step is None:
        return middle if high / low > 1.02 else None
    middle = min(max(round(middle / step) * step, low + step), high - step)
    return float(middle) if low < middle < high else None


def _applied(origin: Origin, changes: Sequence[str]) -> tuple[Scenario, Callable[[Profile], Profile] | None]:
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

    return scenario_from(origin, of_scenario), change_profile if of_profile else None


def _pairs(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Pair]:
    """Yield the cells of both that agree in policy and in what still varies, in the first's order."""
    keys = [key for key in after["swept"] if key in before["swept"]]
    others = {(cell["policy"], *(cell[key] for key in keys)): cell for cell in after["cells"]}
    for cell in before["cells"]:
        found = others.get((cell["policy"], *(cell[key] for key in keys)))
        if found is not None:
            yield Pair(
                policy=cell["policy"], swept={key: cell[key] for key in before["swept"]}, before=cell, after=found
            )


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the values of ``--set``, and the other words of a command."""
    overrides, others = [], []
    waiting = iter(words)
    for word in waiting:
        if word == "--set":
            overrides.append(next(waiting, ""))
        elif word.startswith("--set="):
            overrides.append(word.removeprefix("--set="))
        else:
            others.append(word)
    return overrides, others
