"""What the step times come to against what they should be, a line each: met, or missed by how much."""

from __future__ import annotations

import json
from typing import Any

from gpu_parts.jobs import LeftOutError, Outcome, Setting, write_json, write_text
from gpu_parts.step_times import host_and_selection_frac

RESIDENT_RATIO = 1.15
OFFLOADED_RATIO = 5.0
OFFLOADED_FROM_TOKENS = 32_000
HOST_AND_SELECTION_FRAC = 0.30
HOLD_FROM_HIT_FRAC = 0.9
"""Predictions are said to hold where nine in ten of the pages read are there when they are selected."""


def judge(setting: Setting) -> Outcome:
    """Write ``engine/targets.txt`` and ``.json`` from the step times that are there."""
    files = sorted(setting.folder("engine").glob("times-*.json"))
    lines = [line for path in files for line in targets_of(json.loads(path.read_text(encoding="utf-8")))]
    if not lines:
        raise LeftOutError("no step times are there yet")
    met = sum(line["is_met"] for line in lines)
    folder = setting.folder("engine")
    text = "\n".join(f"{'met' if line['is_met'] else 'MISSED':<7} {line['told']}" for line in lines)
    written = [write_json(folder / "targets.json", lines), write_text(folder / "targets.txt", text)]
    return Outcome(headline=f"{met} of {len(lines)} targets met; engine/targets.txt names them", files=written)


def targets_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each target of one context and batch with what was found."""
    rows = [row for row in found["rows"] if "tpot_s" in row]
    where = f"{found['context_tokens']} tokens x {found['batch']}"
    lines = []
    offloaded = next((row for row in rows if row["label"] == "hf-offloaded"), None)
    for row in (row for row in rows if row["policy"] == "attention"):
        resident = next(other for other in rows if other["policy"] == "resident" and other["k_pages"] == row["k_pages"])
        ratio = row["tpot_s"] / resident["tpot_s"]
        holds = row["hit_frac"] is not None and row["hit_frac"] >= HOLD_FROM_HIT_FRAC
        told = f"{where}: {row['label']} takes {ratio:.2f} times resident at equal selection"
        lines.append(_line(f"{told}, hits {row['hit_frac']:.0%}", ratio, RESIDENT_RATIO, at_most=True, counts=holds))
        frac = host_and_selection_frac(row)
        told = f"{where}: {row['label']}: selection, policy and waiting for the host are {frac:.0%} of the step"
        lines.append(_line(told, frac, HOST_AND_SELECTION_FRAC, at_most=True))
        if offloaded is not None and found["context_tokens"] >= OFFLOADED_FROM_TOKENS:
            speed = offloaded["tpot_s"] / row["tpot_s"]
            told = f"{where}: {row['label']} is {speed:.1f} times as fast as transformers' offloaded cache"
            lines.append(_line(told, speed, OFFLOADED_RATIO, at_most=False))
    return lines


def _line(told: str, value: float, target: float, *, at_most: bool, counts: bool = True) -> dict[str, Any]:
    """Return one target; where it does not count because predictions do not hold, it says so and is not missed."""
    is_met = value <= target if at_most else value >= target
    goal = f"target: {'at most' if at_most else 'at least'} {target:g}"
    if not counts:
        goal += f", where {HOLD_FROM_HIT_FRAC:.0%} are hits"
    missed = "" if is_met else f", off by {abs(value / target - 1):.0%}"
    return {"told": f"{told} ({goal}{missed})", "value": value, "target": target, "is_met": is_met or not counts}
