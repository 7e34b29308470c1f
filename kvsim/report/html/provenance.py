"""From a manifest to what a page says of where a result comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kvsim.report.html.page import Provenance


def provenance_of(summary: Mapping[str, Any], manifest: Mapping[str, Any], *, title: str = "") -> Provenance:
    """Return the provenance of a result: command, date, versions, machine, and digests of what was read."""
    machine = manifest.get("machine") or {}
    versions = manifest.get("versions") or {}
    facts = {
        "Command": str(manifest.get("command") or ""),
        "Date": str(manifest.get("date") or ""),
        "Run": str(manifest.get("run_id") or ""),
        "Scenario": f"{summary['scenario']} ({summary.get('scenario_hash', 'no digest')})",
        "Overrides": ", ".join(map(str, manifest.get("overrides") or ())),
        "Seed": str(manifest.get("seed", "")),
        "Commit": str(manifest.get("commit") or ""),
        "Machine": ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items()),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    facts |= {f"Input: {one.get('role')} {one.get('name')}": _input(one) for one in manifest.get("inputs") or ()}
    resolved = manifest.get("resolved")
    texts = {
        "Scenario file": str(manifest.get("scenario") or ""),
        "Scenario as it was resolved": json.dumps(resolved, indent=1, ensure_ascii=False) if resolved else "",
    }
    return Provenance(title=title, facts=facts, texts=texts)


def header_facts(summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return what a reader must know first: simulated or measured, with whose costs, and when."""
    profile = summary.get("profile") or {}
    link = ", emulated link" if profile.get("emulated_link") else ""
    return {
        "Result": "measured" if summary.get("is_measured") else "simulated",
        "Costs": f"{profile['name']} ({profile['kind']}{link})" if profile else "",
        "Times of": str(profile.get("times_of", "")),
        "Cells": f"{len(summary['cells']):,}",
        "Date": str(manifest.get("date") or "")[:10],
        "kvsim": str((manifest.get("versions") or {}).get("kvsim", "")),
    }


def limitations_of(summary: Mapping[str, Any]) -> list[str]:
    """Return what a reader may not conclude, from what a result rests on."""
    if summary.get("is_measured"):
        return ["Measured on one machine, in one state: see the provenance. Other machines give other times."]
    profile = summary.get("profile") or {}
    lines = [_KINDS[profile["kind"]]] if profile.get("kind") in _KINDS else []
    if profile.get("emulated_link"):
        lines.append("The link between device and host is emulated: its bandwidth is stated, not measured.")
    if profile.get("times_of"):
        lines.append(f"The times are those of another model: {profile['times_of']}.")
    if summary.get("what_if"):
        lines.append(f"Hypothetical: changed by {', '.join(map(str, summary['what_if']))}; nobody measured this.")
    if summary.get("beyond_profile"):
        lines.append("Some costs lie outside the range that the profile measured and are extrapolated.")
    return [*lines, "Simulated, not measured: `kvsim crosscheck` measures the same cells and shows the error of each."]


_KINDS = {
    "published": "The costs are published figures, collected from several sources and not measured on one machine.",
    "estimated": "The costs are estimated from a data sheet and from kernels measured on other cards.",
    "exact": "The costs are stated in the profile, not measured.",
    "measured": "The costs were measured on the machine that the profile names, in the state that it then had.",
}


def _input(one: Mapping[str, Any]) -> str:
    return f"{one.get('digest') or 'no digest'} ({one.get('covers')})"
