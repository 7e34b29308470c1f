"""From which length on loading a prompt's beginning beats computing it: of simulated and of measured cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

GROUP = ("tier", "policy", "budget_bytes", "link_bytes_per_s", "least_tokens")


def crossing(lengths: Sequence[float], gains_s: Sequence[float]) -> tuple[str, float | None]:
    """Return from which length on loading beats computing: at all lengths, at none, or from a length in between.

    The length is interpolated between the last one at which loading does not gain and the next.

    Examples
    --------
    >>> crossing([8, 16, 32], [-2.0, 2.0, 5.0])
    ('from', 12.0)
    >>> crossing([8, 16], [1.0, 2.0]), crossing([8, 16], [1.0, -2.0])
    (('always', None), ('never', None))
    """
    losing = [place for place, gain_s in enumerate(gains_s) if gain_s <= 0]
    if not losing:
        return "always", None
    last = losing[-1]
    if last == len(gains_s) - 1:
        return "never", None
    share = -gains_s[last] / (gains_s[last + 1] - gains_s[last])
    return "from", lengths[last] + share * (lengths[last + 1] - lengths[last])


def break_evens(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the break-even of every group of cells that differ in the tokens shared alone, and of each repeat."""
    entries = []
    for key, group in groups_of(cells).items():
        own = sorted((cell for cell in group if cell["ttft_hit_s"] is not None), key=lambda cell: cell["shared_tokens"])
        lengths = [cell["shared_tokens"] for cell in own]
        if len(set(lengths)) < 2 or len(set(lengths)) < len(lengths):
            continue
        gains_s = [cell["ttft_hit_full_s"] - cell["ttft_hit_s"] for cell in own]
        verdict, from_tokens = crossing(lengths, gains_s)
        repeats = zip(*(cell.get("gain_repeats_s", ()) for cell in own), strict=True)
        each = [crossing(lengths, gains) for gains in repeats]
        entry = dict(zip(GROUP, key, strict=True))
        entry |= {"lengths": lengths, "gains_s": gains_s, "verdict": verdict, "from_tokens": from_tokens}
        entry["repeats"] = [{"verdict": verdict, "from_tokens": tokens} for verdict, tokens in each]
        if all("busy_gain_s" in cell for cell in own):
            entry["busy_verdict"], entry["busy_from_tokens"] = crossing(lengths, [cell["busy_gain_s"] for cell in own])
        entries.append(entry)
    return entries


def break_evens_beside(
    simulated: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the break-evens of the same groups side by side; the error where both cross between two lengths."""
    known = {tuple(entry[name] for name in GROUP): entry for entry in simulated}
    entries = []
    for real in measured:
        sim = known.get(tuple(real[name] for name in GROUP))
        if sim is None:
            continue
        both, busy = (sim["from_tokens"], real["from_tokens"]), real.get("busy_from_tokens")
        entries.append(
            dict(real)
            | {"simulated_verdict": sim["verdict"], "simulated_from_tokens": sim["from_tokens"]}
            | {"error_frac": both[0] / both[1] - 1 if both[0] is not None and both[1] else None}
            | {"agrees": sim["verdict"] == real["verdict"]}
            | {"busy_error_frac": both[0] / busy - 1 if both[0] is not None and busy else None}
        )
    return entries


def groups_of(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    """Return the cells of each group that differs in `GROUP`, which leaves out the tokens shared."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell[name] for name in GROUP), []).append(cell)
    return groups
