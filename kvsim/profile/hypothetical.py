"""Profiles of machines one does not have: a measured one with a faster link, faster compute or a faster host."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from kvsim.errors import ScenarioError
from kvsim.profile.profile import LinkCost, Profile
from kvsim.profile.tables import CostTable
from kvsim.scenario.toml import nearest
from kvsim.units import parse_bytes

_Cost = TypeVar("_Cost", CostTable, CostTable | None)

PREFIX = "profile."


def is_profile_change(key: str) -> bool:
    """Return whether ``--set KEY=...`` changes the profile and not the scenario."""
    return key.removeprefix(PREFIX) in CHANGES and key.startswith(PREFIX)


def changed_profile(profile: Profile, key: str, text: str) -> Profile:
    """Return `profile` with one thing changed, its name saying so.

    Parameters
    ----------
    key
        ``profile.link_bandwidth``, ``profile.compute_speed`` or ``profile.host_speed``.
    text
        A factor, as in ``x2``; for the bandwidth also bytes a second, as in ``50 GB``.

    Raises
    ------
    ScenarioError
        If there is no such key, or the value is no factor above 0.

    Notes
    -----
    ``link_bandwidth``: of each transfer, its bytes over the link's own bandwidth shrink by the factor, and what it
    takes beyond stays; the own bandwidth is the stated one, or the highest of the table. ``compute_speed``: the
    device's share of all segments. ``host_speed``: launches, synchronisation, decisions and submissions; where the
    host is the device (a CPU) the segments stay. How copies slow compute is kept. Nothing of it was measured.
    """
    name = key.removeprefix(PREFIX)
    if name not in CHANGES:
        raise ScenarioError(f"--set {key}: no such change of a profile{nearest(name, CHANGES)}")
    factor = _factor(profile, key, text)
    changed = CHANGES[name](profile, factor)
    return changed.model_copy(update={"name": f"{profile.name} with {name} x{factor:g}"})


def link_bandwidth_bytes_per_s(profile: Profile) -> float:
    """Return the link's own bandwidth to the device: the stated one, or the highest rate in the table."""
    return _bandwidth(profile.link.to_device, profile.link.stated_bandwidth_bytes_per_s)


def _factor(profile: Profile, key: str, text: str) -> float:
    problem = f"--set {key}={text}: should be a factor above 0, as in x2"
    match = re.fullmatch(r"\s*x\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*", text)
    if match:
        try:
            factor = float(match[1])
        except ValueError:
            raise ScenarioError(problem) from None
    elif key == f"{PREFIX}link_bandwidth":
        try:
            factor = parse_bytes(text) / link_bandwidth_bytes_per_s(profile)
        except ScenarioError:
            raise ScenarioError(f"{problem}, or bytes a second, as in '50 GB'") from None
    else:
        raise ScenarioError(problem)
    if not 1e-6 <= factor <= 1e6:
        raise ScenarioError(f"{problem}, from 1e-6 to 1e6")
    return factor


def _bandwidth(cost: LinkCost, stated_bytes_per_s: float | None) -> float:
    table = cost.transfer
    rates = [
        pieces * size_bytes / time_s
        for pieces, row in zip(table.amounts, table.time_s, strict=True)
        for size_bytes, time_s in zip(table.columns, row, strict=True)
        if time_s > 0
    ]
    return max([*rates, stated_bytes_per_s or 0.0])


def _with_bandwidth(profile: Profile, factor: float) -> Profile:
    link = profile.link
    stated = link.stated_bandwidth_bytes_per_s

    def faster(cost: LinkCost) -> LinkCost:
        own = _bandwidth(cost, stated)
        if own <= 0:
            return cost

        def shorter(pieces: float, size_bytes: float, time_s: float) -> float:
            return time_s - pieces * size_bytes / own * (1 - 1 / factor)

        return cost.model_copy(update={"transfer": cost.transfer.changed(shorter)})

    changes: dict[str, object] = {"to_device": faster(link.to_device), "to_host": faster(link.to_host)}
    if stated is not None:
        changes["stated_bandwidth_bytes_per_s"] = stated * factor
    return profile.model_copy(update={"link": link.model_copy(update=changes)})


def _with_compute(profile: Profile, factor: float) -> Profile:
    segments = {
        name: cost.model_copy(update={"device": _scaled(cost.device, factor), "tail_s": cost.tail_s / factor})
        for name, cost in profile.segments.items()
    }
    return profile.model_copy(update={"segments": segments})


def _with_host(profile: Profile, factor: float) -> Profile:
    segments = {
        name: cost.model_copy(update={"host": _scaled(cost.host, factor)}) for name, cost in profile.segments.items()
    }
    policies = {name: _scaled(table, factor) for name, table in profile.policies.items()}
    link = profile.link
    sides = {"to_device": link.to_device, "to_host": link.to_host}
    faster = {name: side.model_copy(update={"submit_s": side.submit_s / factor}) for name, side in sides.items()}
    return profile.model_copy(
        update={
            "segments": segments,
            "policies": policies,
            "sync_s": profile.sync_s / factor,
            "link": link.model_copy(update=faster),
        }
    )


def _scaled(table: _Cost, factor: float) -> _Cost:
    return table and table.changed(lambda _amount, _column, time_s: time_s / factor)


CHANGES: Mapping[str, Callable[[Profile, float], Profile]] = {
    "link_bandwidth": _with_bandwidth,
    "compute_speed": _with_compute,
    "host_speed": _with_host,
}
"""What ``profile.<name> = xFACTOR`` does, by name."""
