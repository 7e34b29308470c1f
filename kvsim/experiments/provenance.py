"""What a result was made from: its scenario as it was resolved, and digests of the files that the run read.

A scenario's tree says which of its fields name files (`AnyScenario.inputs`); the manifest of a result records each with
a digest, so that whoever goes on from the result notices a file that has changed since.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kvsim.errors import KvsimError, ResultError
from kvsim.experiments.types import Job
from kvsim.policies.registry import load_class
from kvsim.policies.source_code import code_digest
from kvsim.profile.cards.load import card_file
from kvsim.profile.provenance import (
    Input,
    described,
    file_input,
    make_manifest,
    model_input,
    recorded_inputs,
)
from kvsim.report.results import RunResult
from kvsim.scenario.file import AnyScenario, Role
from kvsim.scenario.models.known import known_models
from kvsim.scenario.shipped import find_capture, find_profile, find_requests, find_tokens, near

if TYPE_CHECKING:
    from kvsim.report.comparison import Compared

MEASURED_ROLES: tuple[Role, ...] = ("model", "text")
"""What only a measurement reads."""

REPLAYED_ROLES: tuple[Role, ...] = ("trace", "requests")
"""What a simulation replays, unless it is given something else; a measurement reads none of it."""


def manifest_of(
    scenario: AnyScenario, job: Job, *, seed: int, is_measured: bool = False, more: Iterable[Input] = ()
) -> dict[str, Any]:
    """Return the manifest of a run: where and when it was made, the resolved scenario, and what was read.

    Parameters
    ----------
    more
        What the run read that no field of the scenario names.
    """
    inputs = [*inputs_of(scenario, job, is_measured=is_measured), *more]
    manifest = make_manifest(scenario_text=job.text, scenario_hash=scenario.hash, seed=seed, command=job.command)
    return manifest | {
        "resolved": scenario.model_dump(mode="json", exclude_none=True),
        "overrides": list(job.overrides),
        "base_dir": None if job.base_dir is None else str(job.base_dir.resolve()),
        "recorded": None if job.recorded is None else str(job.recorded),
        "inputs": described(inputs),
    }


def inputs_of(scenario: AnyScenario, job: Job, *, is_measured: bool) -> list[Input]:
    """Return the files that a scenario's fields name, each once, as the cells of a run read them."""
    by_name: dict[tuple[str, str], Input] = {}
    for dotted, role in type(scenario).inputs.items():
        if role in MEASURED_ROLES and not is_measured:
            continue
        if role in REPLAYED_ROLES and (is_measured or job.recorded is not None or job.accesses is not None):
            continue
        for cell in scenario.cells:
            name = cell.value_at(dotted)
            is_file = isinstance(name, str) and (role != "config" or name not in known_models())
            if name and is_file and (role, name) not in by_name:
                by_name[role, name] = input_named(role, name, job.base_dir)
    return list(by_name.values())


def input_named(role: Role | Literal["policy"], name: str, base_dir: Path | None) -> Input:
    """Return what a scenario calls `name`, with its digest.

    Raises
    ------
    KvsimError
        If it is a file that cannot be found or read.
    """
    if role == "policy":
        return policy_input(name, load_class(name, f"policy {name!r}"))
    if role == "model":
        return model_input(name, Path(near(name, base_dir)))
    path = _FINDERS[role](name, base_dir)
    if role in _ABSENT and not path.is_file():
        return Input(role=role, name=name, digest=None, covers=f"nothing: it is {_ABSENT[role]}")
    try:
        return file_input(role, name, path)
    except OSError as problem:
        raise ResultError(f"{path}: {problem.strerror}") from None


def policy_input(name: str, kind: type[Any]) -> Input:
    """Return a plug-in with a digest of its code."""
    covers = "its source code, and what that imports from its own folder"
    return Input(role="policy", name=name, digest=code_digest(kind), covers=covers)


def changed_inputs(result: RunResult, base_dir: Path | None, names: Collection[Any]) -> list[str]:
    """Return a line for each of the named inputs that is no longer what a result was made from."""
    lines = []
    for one in recorded_inputs(result.manifest) or ():
        if one.name not in names or one.digest is None:
            continue
        try:
            now = input_named(one.role, one.name, base_dir).digest
        except KvsimError as problem:
            lines.append(f"{one.role} {one.name!r} cannot be read any more: {problem}")
            continue
        if now != one.digest:
            lines.append(f"{one.role} {one.name!r} has changed since the result was made ({one.digest}, now {now})")
    return lines


def compared_with_notes(simulated: RunResult, measured: RunResult, compared: Compared) -> Compared:
    """Return a comparison with a note where a result does not record what it was made from."""
    notes = [
        f"Note: the {which} result does not record digests of what it was made from, so whether both used the same "
        "profile is not known."
        for which, result in (("simulated", simulated), ("measured", measured))
        if recorded_inputs(result.manifest) is None
    ]
    if not notes:
        return compared
    contents = {**compared.contents, "notes": notes}
    return replace(compared, contents=contents, text="\n\n".join([compared.text, *notes]))


def check_same_profile(simulated: RunResult, measured: RunResult) -> None:
    """Refuse two results that used different contents of one profile.

    Raises
    ------
    ResultError
        Naming the profile and both digests.
    """
    own, other = (
        {one.name: one.digest for one in recorded_inputs(result.manifest) or () if one.role == "profile"}
        for result in (simulated, measured)
    )
    for name in own.keys() & other.keys():
        if own[name] != other[name]:
            raise ResultError(
                f"profile {name!r} changed between the two results (digest {own[name]} when simulated, {other[name]} "
                "when measured): simulate and measure again with the same one"
            )


def _config_file(name: str, base_dir: Path | None) -> Path:
    path = Path(near(name, base_dir))
    return path / "config.json" if path.is_dir() else path


_ABSENT: dict[str, str] = {"text": "a text that Python brings", "config": "not a path on this machine"}
"""What an input is that is no file."""

_FINDERS: dict[Role, Callable[[str, Path | None], Path]] = {
    "profile": find_profile,
    "card": card_file,
    "config": _config_file,
    "trace": find_capture,
    "requests": find_requests,
    "tokens": find_tokens,
    "file": lambda name, base_dir: Path(near(name, base_dir)),
    "text": lambda name, base_dir: Path(near(name, base_dir)),
}
