"""The verdict in words: what fits, what each policy saves, costs and loses. Plain Python: a run needs no pandas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter

from kvsim.experiments.decode.entry import Entry, value_of
from kvsim.report.tables import percent
from kvsim.units import format_bytes, format_seconds

_Situation = tuple[int, int, str]
"""Tokens of context, sequences of the batch, and the formats of weights and cache where they vary."""


def verdict(cells: Sequence[Entry], device_memory_bytes: int, *, profile_kind: str, emulated_link: bool) -> list[str]:
    """Return a paragraph for each context and batch, and a closing line.

    Parameters
    ----------
    cells
        The cells of ``summary.json``. Of a policy's cells in one situation, the fastest that fits speaks for it,
        and the leanest where that needs less memory.
    profile_kind
        As a profile says it: ``measured``, ``published``, ``estimated`` or ``exact``.
    """
    situations: dict[_Situation, list[Entry]] = {}
    for cell in cells:
        situations.setdefault((cell["context_tokens"], cell["batch"], _formats(cell)), []).append(cell)
    ordered = dict(sorted(situations.items()))
    paragraphs = [
        _paragraph(situation, members, device_memory_bytes, is_pinned=not emulated_link)
        for situation, members in ordered.items()
    ]
    options = {situation: _options(members) for situation, members in ordered.items()}
    closing = [
        _recommendation(options),
        *_bounds(cells),
        *_throughput(options),
        *_no_use_of_predicting(cells),
        _trust(profile_kind, emulated_link),
    ]
    return [*paragraphs, " ".join(closing)]


def _paragraph(situation: _Situation, cells: list[Entry], memory_bytes: int, *, is_pinned: bool) -> str:
    resident = _fastest(cell for cell in cells if _is_resident(cell))
    names = dict.fromkeys(cell["policy"] for cell in cells if not _is_resident(cell))
    by_policy = [[cell for cell in cells if cell["policy"] == name] for name in names]
    by_policy.sort(key=lambda members: min(cell["tpot_p50_s"] for cell in members))
    sentences = [_memory(situation, cells, resident, memory_bytes)]
    sentences += [_policy(members, resident, memory_bytes) for members in by_policy]
    return " ".join([*sentences, *_host_memory(cells, is_pinned=is_pinned), _loss(cells)])


def _memory(situation: _Situation, cells: list[Entry], resident: Entry | None, memory_bytes: int) -> str:
    """Say what everything resident would take, part by part, and whether it fits."""
    parts = {
        "weights": max(cell["weights_bytes"] for cell in cells),
        "KV": _whole_kv_bytes(cells),
        "page summaries": max(cell["summary_bytes"] for cell in cells),
        "activations": max(cell["activation_bytes"] for cell in cells),
    }
    whole_bytes = sum(parts.values())
    listed = ", ".join(f"{name} {format_bytes(size)}" for name, size in parts.items() if size)
    over_bytes = whole_bytes - memory_bytes
    fits = over_bytes <= 0
    outcome = "which fits" if fits else f"{format_bytes(over_bytes)} too much"
    token = "" if resident is None else f"; a token {'takes' if fits else 'would take'} {_token(resident)}"
    return (
        f"At {_at(situation)}, everything resident takes {format_bytes(whole_bytes)} ({listed}) of "
        f"{format_bytes(memory_bytes)}, {outcome}{token}."
    )


def _whole_kv_bytes(cells: list[Entry]) -> int:
    sizes: list[float] = [cell["kv_device_bytes"] for cell in cells if _is_resident(cell)]
    return int(max(sizes or [max(_host_bytes_of_a_device(cell), cell["kv_device_bytes"]) for cell in cells]))


def _host_bytes_of_a_device(cell: Entry) -> float:
    """Return the share of the pages in host memory that is of the device with the most layers."""
    layers = [device["layers"] for device in cell.get("devices", ())] or [1]
    return cell["host_bytes"] * max(layers) / sum(layers)


def _policy(cells: list[Entry], resident: Entry | None, memory_bytes: int) -> str:
    name = f"`{cells[0]['policy']}`"
    fitting = [cell for cell in cells if cell["fits"]]
    best = _fastest(fitting)
    if best is None:
        least_bytes = min(cell["device_bytes"] for cell in cells)
        over = format_bytes(least_bytes - memory_bytes)
        return f"{name} does not fit: it takes at least {format_bytes(least_bytes)}, {over} too much."
    sentence = (
        f"{name} takes {_token(best)}{_times(best, resident)} with {format_bytes(best['kv_device_bytes'])} of KV on "
    )
    sentence += f"the device{_saving(best, resident)}{_setting(best, cells)}"
    leanest = min(fitting, key=lambda cell: (cell["device_bytes"], cell["tpot_p50_s"]))
    if leanest["device_bytes"] < best["device_bytes"]:
        size = format_bytes(leanest["kv_device_bytes"])
        sentence += f", or {_token(leanest)} with {size}{_saving(leanest, resident)}{_setting(leanest, cells)}"
    return f"{sentence}."


def _host_memory(cells: list[Entry], *, is_pinned: bool) -> list[str]:
    """Say how much host memory the policies take that keep pages there."""
    by_size: dict[int, list[str]] = {}
    for name in dict.fromkeys(cell["policy"] for cell in cells):
        most_bytes = max(cell["host_bytes"] for cell in cells if cell["policy"] == name)
        if most_bytes:
            by_size.setdefault(most_bytes, []).append(f"`{name}`")
    verbs = ("pins", "pin") if is_pinned else ("takes", "take")
    return [
        f"{_join(names)} {verbs[len(names) > 1]} {format_bytes(size)} of host memory."
        for size, names in by_size.items()
    ]


def _token(cell: Entry) -> str:
    return format_seconds(cell["tpot_p50_s"])


def _times(cell: Entry, resident: Entry | None) -> str:
    if resident is None:
        return ""
    ratio = cell["tpot_p50_s"] / resident["tpot_p50_s"]
    return f" ({ratio:.2f} times)" if ratio < 9.95 else f" ({ratio:.0f} times)"


def _saving(cell: Entry, resident: Entry | None) -> str:
    if resident is None:
        return ""
    saved_bytes = resident["device_bytes"] - cell["device_bytes"]
    if saved_bytes > 0:
        return f" (saves {format_bytes(saved_bytes)})"
    return " (saves nothing)" if saved_bytes == 0 else f" ({format_bytes(-saved_bytes)} more than resident)"


def _setting(cell: Entry, cells: list[Entry]) -> str:
    """Name the swept values, the budget's apart, by which this cell differs from the policy's others."""
    keys = [key for key in cell if "." in key and not key.startswith("budget.")]
    varied = [key for key in keys if len({str(other.get(key)) for other in cells}) > 1]
    return f" ({', '.join(f'{key} = {value_of(cell, key)}' for key in varied)})" if varied else ""


def _loss(cells: list[Entry]) -> str:
    """Say what attention mass is lost, policies that lose alike together."""
    by_loss: dict[str, list[str]] = {}
    for name in dict.fromkeys(cell["policy"] for cell in cells):
        recalls = [cell["mass_recall_frac"] for cell in cells if cell["policy"] == name]
        by_loss.setdefault(_lost_mass(recalls), []).append(f"`{name}`")
    phrases = [f"{_join(names)} {'loses' if len(names) == 1 else 'lose'} {loss}" for loss, names in by_loss.items()]
    selectors = dict.fromkeys(cell["selector"] for cell in cells if cell["selector"] != "full")
    reading = f" (pages read: {_join(list(selectors))})" if selectors else ""
    return f"Of the attention mass{reading}, {_join(phrases)}{_bias(cells)}."


def _bias(cells: list[Entry]) -> str:
    """Say how far the attention recall of generated accesses is off where the trace can be asked."""
    points = [100 * bias for cell in cells if (bias := cell.get("recall_bias_frac")) is not None]
    if not points:
        return ""
    least, most = (f"{value:+.1f}" for value in (-max(points), -min(points)))
    off = least if least == most else f"{least} to {most}"
    return (
        f"; these accesses are generated: their loss at the trace's own length differs from the trace's by {off} points"
    )


def _lost_mass(recalls: list[float | None]) -> str:
    known = [recall for recall in recalls if recall is not None]
    if not known:
        return "an unknown share"
    least, most = (percent(1 - recall) for recall in (max(known), min(known)))
    if most == "0.0%":
        return "none"
    return least if least == most else f"{least} to {most}"


def _options(cells: list[Entry]) -> list[Entry]:
    """Return the cells that one can choose: not those whose policy sees the future, unless there are no others."""
    return [cell for cell in cells if not cell.get("is_bound")] or cells


def _bounds(cells: Sequence[Entry]) -> list[str]:
    names = list(dict.fromkeys(f"`{cell['policy']}`" for cell in cells if cell.get("is_bound")))
    if not names:
        return []
    return [f"{_join(names)} {'sees' if len(names) == 1 else 'see'} the future: a bound, not an option."]


def _recommendation(situations: dict[_Situation, list[Entry]]) -> str:
    """Name the fastest policy that fits in each situation."""
    best = {situation: _fastest(cell for cell in cells if cell["fits"]) for situation, cells in situations.items()}
    if all(cell is not None and _is_resident(cell) for cell in best.values()):
        return "Everything resident fits and is the fastest: a policy is worth only the memory that it saves."
    by_policy: dict[str | None, list[_Situation]] = {}
    for situation, cell in best.items():
        by_policy.setdefault(cell["policy"] if cell else None, []).append(situation)
    unfit = by_policy.pop(None, [])
    if not by_policy:
        return "Nothing fits."
    if len(by_policy) == 1 and not unfit:
        throughout = " throughout" if len(situations) > 1 else ""
        return f"The fastest that fits is `{next(iter(by_policy))}`{throughout}."
    chosen = [f"`{name}` at {_join([_at(situation) for situation in places])}" for name, places in by_policy.items()]
    nothing = f"; at {_join([_at(situation) for situation in unfit])} nothing fits" if unfit else ""
    return f"The fastest that fits is {', '.join(chosen)}{nothing}."


def _throughput(situations: dict[_Situation, list[Entry]]) -> list[str]:
    """Compare the tokens of all sequences per second over the batches of a context; less than a batch apart, nothing.

    The fastest token and the most tokens are two things: more sequences, paged, may give fewer than fewer, resident.
    """
    sentences = []
    for context_tokens in dict.fromkeys(context for context, *_ in situations):
        fitting: dict[int, list[Entry]] = {}
        for (context, batch, _), members in situations.items():
            if context == context_tokens:
                fitting.setdefault(batch, []).extend(cell for cell in members if cell["fits"])
        cells = [cell for own in fitting.values() for cell in own]
        if len(fitting) < 2 or not cells:
            continue
        best = max(cells, key=itemgetter("tokens_per_s"))
        others = [cell for cell in cells if cell["policy"] != best["policy"]]
        sentence = f"At {context_tokens:,} tokens the throughput is highest with {_batch_of(best)}"
        others_at_most = [
            f"{_batch_of(own)} ({own['tokens_per_s'] / best['tokens_per_s']:.2f} times)"
            for own in _best_of_each(others)
        ]
        sentences.append(f"{sentence}{f', against {_join(others_at_most)} at most' if others_at_most else ''}.")
    return sentences


def _no_use_of_predicting(cells: Sequence[Entry]) -> list[str]:
    """Say where a policy that prefetches misses more pages than `lru` alone does with the same budget."""
    alone = {_settings(cell): cell for cell in cells if cell["policy"] == "lru"}
    worse: dict[str, tuple[Entry, Entry]] = {}
    for cell in cells:
        base = alone.get(_settings(cell))
        if base is not None and cell.get("prefetched") and cell["misses"] > base["misses"]:
            known = worse.get(cell["policy"])
            if known is None or cell["misses"] * known[1]["misses"] > known[0]["misses"] * base["misses"]:
                worse[cell["policy"]] = cell, base
    return [
        f"`{name}` misses more pages than `lru` with {cell['budget_pages']:,} device pages ({cell['misses']:,} against "
        f"{base['misses']:,}): where a budget is roomy, the last reading of a page says more than what is predicted."
        for name, (cell, base) in worse.items()
    ]


def _settings(cell: Entry) -> tuple[tuple[str, str], ...]:
    """Return what situations and budgets differ in: the context, the batch and everything swept."""
    varied = {key: str(value) for key, value in cell.items() if "." in key}
    return tuple(sorted({**varied, "context": str(cell["context_tokens"]), "batch": str(cell["batch"])}.items()))


def _best_of_each(cells: list[Entry]) -> list[Entry]:
    """Return each policy's cell of the highest throughput, the highest first."""
    names = dict.fromkeys(cell["policy"] for cell in cells)
    best = [max((cell for cell in cells if cell["policy"] == name), key=itemgetter("tokens_per_s")) for name in names]
    return sorted(best, key=itemgetter("tokens_per_s"), reverse=True)


def _batch_of(cell: Entry) -> str:
    sequences = "1 sequence" if cell["batch"] == 1 else f"{cell['batch']} sequences"
    return f"{sequences} of `{cell['policy']}`: {cell['tokens_per_s']:,.0f} tokens/s"


def _trust(profile_kind: str, emulated_link: bool) -> str:
    if profile_kind == "published":
        return (
            "The costs are published figures, not measured on your machine: trust what fits and the order of the "
            "policies more than the milliseconds."
        )
    if profile_kind == "estimated":
        return (
            "The costs are estimated from a data sheet, not measured on any machine: trust what fits and the order of "
            "the policies where their intervals part, not the milliseconds."
        )
    if profile_kind == "exact":
        return "The costs are stated, not measured: the answer holds as far as they do."
    if emulated_link:
        return "The link was emulated, held to a bandwidth: trust the order of the policies more than the milliseconds."
    return "The costs were measured on one machine: `kvsim measure` runs the same policies there for real."


def _at(situation: _Situation) -> str:
    context_tokens, batch, formats = situation
    where = f"{context_tokens:,} tokens" + (f" in each of {batch} sequences" if batch > 1 else "")
    return f"{where} with {formats}" if formats else where


def _formats(cell: Entry) -> str:
    """Return the formats of weights and cache in words, where a run varies them."""
    names = {"model.weights": "weights", "model.kv": "KV"}
    return " and ".join(f"{name} in {cell.get(key)}" for key, name in names.items() if cell.get(key) is not None)


def _is_resident(cell: Entry) -> bool:
    return cell["budget_pages"] is None


def _fastest(cells: Iterable[Entry]) -> Entry | None:
    return min(cells, key=lambda cell: cell["tpot_p50_s"], default=None)


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
