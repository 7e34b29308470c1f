"""What a serving result says in words, and what its figures leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvsim.units import format_seconds

BUSY_FRAC, WAITING_SHARE = 0.98, 0.5
_PART_NAMES = {
    "host": "host work",
    "tokens": "products over tokens",
    "keys": "reading keys and values",
    "pairs": "attention over pairs",
    "sampled": "logits and sampling",
}


def verdict_of(cells: Sequence[Mapping[str, Any]], *, profile_kind: str, engine: str, is_drawn: bool) -> list[str]:
    """Return lines about the cells that stand out, where the time goes, and what to distrust."""
    lines = [*_slo_lines(cells), *_limit_lines(cells), _time_line(cells), *_caveats(cells)]
    intervals = (
        "Figures are medians over draws, each with a spread of steps of its own and costs within what the profile may "
        "be off; intervals hold nine of ten."
        if is_drawn
        else "Intervals: every step as short, and as long, as the profile's costs may be."
    )
    lines.append(f"Times end where the engine has the token: no network, tokeniser or API server. {intervals}")
    if profile_kind != "measured":
        lines.append(f"The costs are {profile_kind}, not measured on this engine ({engine}).")
    elif engine.startswith("none"):
        lines.append(f"The costs of steps are put together ({engine}); `kvsim calibrate --engine vllm` times vLLM's.")
    return lines


def _slo_lines(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    promised = [cell for cell in cells if "met_frac" in cell]
    if not promised:
        return []
    best, worst = (choose(promised, key=lambda cell: cell["met_frac"]) for choose in (max, min))
    line = (
        f"{100 * best['met_frac']:.1f}% of the requests meet the SLO ({best['goodput_hz']:.3g} requests/s of goodput)"
    )
    if len(promised) > 1 and worst["met_frac"] < best["met_frac"]:
        line = f"Best cell: {line}; worst: {100 * worst['met_frac']:.1f}%"
    return [line + "."]


def _limit_lines(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    full = [cell for cell in cells if cell["preemptions"]]
    if full:
        most = max(full, key=lambda cell: cell["preemptions"])
        lines.append(
            f"The KV cache runs full in {_of(full, cells)}: up to {most['preemptions']:,} preemptions, which compute "
            f"again what they lost ({most['num_blocks'] - 1:,} blocks of {most['block_tokens']} tokens)."
        )
    late = [cell for cell in cells if cell["queue_mean_s"] > WAITING_SHARE * cell["ttft_mean_s"]]
    if late:
        worst = max(late, key=lambda cell: cell["queue_mean_s"])
        lines.append(
            f"Waiting in the queue is more than half of the time to first token in {_of(late, cells)}, up to "
            f"{format_seconds(worst['queue_mean_s'])} in the mean."
        )
    over = [cell for cell in cells if cell["busy_frac"] > BUSY_FRAC and cell["waiting_mean"] > cell["running_mean"]]
    if over:
        lines.append(
            f"More arrives than is served in {_of(over, cells)}: the queue grows to the end, so latencies there depend "
            "on how long the traffic lasts."
        )
    return lines


def _time_line(cells: Sequence[Mapping[str, Any]]) -> str:
    totals = {name: sum(cell["parts_s"][name] for cell in cells) for name in _PART_NAMES}
    whole = sum(totals.values()) or 1.0
    shares = sorted(((value / whole, _PART_NAMES[name]) for name, value in totals.items()), reverse=True)
    return "Time of steps: " + ", ".join(f"{name} {100 * share:.0f}%" for share, name in shares if share >= 0.005) + "."


def _caveats(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    dropped, cut = (max(cell[name] for cell in cells) for name in ("num_dropped", "num_cut"))
    if dropped:
        lines.append(f"{dropped:,} requests of the trace are longer than the engine takes and were left out.")
    if cut:
        lines.append(f"{cut:,} prompts were cut to what the engine takes.")
    outside: dict[str, float] = {}
    for cell in cells:
        for name, times in cell["outside"].items():
            outside[name] = max(times, outside.get(name, 0.0))
    if outside:
        parts = ", ".join(f"{_PART_NAMES[name]} {times:.2g} times" for name, times in outside.items())
        lines.append(f"The largest steps go beyond what the profile covers ({parts}); costs there are extrapolated.")
    return lines


def _of(some: Sequence[Any], cells: Sequence[Any]) -> str:
    return "the run" if len(cells) == 1 else f"{len(some)} of {len(cells)} cells"
