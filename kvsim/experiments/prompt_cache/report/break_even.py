"""From which length on loading a prompt's beginning beats computing it: of simulated and of measured cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvsim.experiments.prompt_cache.cell import BreakEven, Crossing, PromptsCell

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


def break_evens(cells: Sequence[PromptsCell]) -> list[BreakEven]:
    """Return the break-even of every group of cells that differ in the tokens shared alone, and of each repeat."""
    entries = []
    for group in groups_of(cells).values():
        own = sorted(
            (cell for cell in group if cell["ttft_hit_s"] is not None), key=lambda cell: cell["shared_tokens"] or 0
        )
        lengths = [cell["shared_tokens"] or 0 for cell in own]
        if len(set(lengths)) < 2 or len(set(lengths)) < len(lengths):
            continue
        gains_s = [(cell["ttft_hit_full_s"] or 0.0) - (cell["ttft_hit_s"] or 0.0) for cell in own]
        first = own[0]
        verdict, from_tokens = crossing(lengths, gains_s)
        repeats = (
            crossing(lengths, gains) for gains in zip(*(cell.get("gain_repeats_s", ()) for cell in own), strict=True)
        )
        entry = BreakEven(
            tier=first["tier"],
            policy=first["policy"],
            budget_bytes=first["budget_bytes"],
            link_bytes_per_s=first["link_bytes_per_s"],
            least_tokens=first["least_tokens"],
            lengths=lengths,
            gains_s=gains_s,
            verdict=verdict,
            from_tokens=from_tokens,
            repeats=[Crossing(verdict=verdict, from_tokens=tokens) for verdict, tokens in repeats],
        )
        if all("busy_gain_s" in cell for cell in own):
            entry["busy_verdict"], entry["busy_from_tokens"] = crossing(lengths, [cell["busy_gain_s"] for cell in own])
        entries.append(entry)
    return entries


def break_evens_beside(simulated: Sequence[BreakEven], measured: Sequence[BreakEven]) -> list[BreakEven]:
    """Return the break-evens of the same groups side by side; the error where both cross between two lengths."""
    known = {_group(entry): entry for entry in simulated}
    entries = []
    for real in measured:
        sim = known.get(_group(real))
        if sim is None:
            continue
        entry = real.copy()
        tokens = sim["from_tokens"]
        entry["simulated_verdict"], entry["simulated_from_tokens"] = sim["verdict"], tokens
        entry["error_frac"] = _error_frac(tokens, real["from_tokens"])
        entry["agrees"] = sim["verdict"] == real["verdict"]
        entry["busy_error_frac"] = _error_frac(tokens, real.get("busy_from_tokens"))
        entries.append(entry)
    return entries


def groups_of(cells: Sequence[PromptsCell]) -> dict[tuple[Any, ...], list[PromptsCell]]:
    """Return the cells of each group that differs in `GROUP`, which leaves out the tokens shared."""
    groups: dict[tuple[Any, ...], list[PromptsCell]] = {}
    for cell in cells:
        groups.setdefault(_group(cell), []).append(cell)
    return groups


def _group(entry: PromptsCell | BreakEven) -> tuple[Any, ...]:
    return tuple(dict(entry)[name] for name in GROUP)


def _error_frac(simulated: float | None, measured: float | None) -> float | None:
    return simulated / measured - 1 if simulated is not None and measured else None
