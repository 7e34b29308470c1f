"""Wiring of `kvsim mrc`: which keys a file accesses in which order, and LRU's miss-ratio curve over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import PositiveInt

from kvsim.caches import MissCurve, miss_curve
from kvsim.errors import ScenarioError, TraceError
from kvsim.policies.budget import make_selector
from kvsim.scenario.decode import SelectorChoice
from kvsim.scenario.overrides import parse_override, set_at
from kvsim.scenario.toml import Strict, validate
from kvsim.traces.access.base import AccessSource
from kvsim.traces.access.file import open_trace
from kvsim.traces.lines import lines_of
from kvsim.traces.requests.base import gather
from kvsim.traces.requests.mooncake import BLOCK_TOKENS, read_mooncake
from kvsim.types import IntArray, PageGrid, pages_of

SUFFIXES = (".kvtrace", ".jsonl", ".jsonl.gz", ".npy", ".txt", ".txt.gz")


class MrcSettings(Strict):
    """What decides the accesses of a file besides the file."""

    page_tokens: PositiveInt = 32
    """Of an access trace."""
    selector: SelectorChoice = SelectorChoice(name="top-k", k_pages=8, sink_pages=1, recent_pages=2)
    """Which pages attention reads, of an access trace."""
    block_tokens: PositiveInt = BLOCK_TOKENS
    """Of a request trace with ``hash_ids``."""


def parse_settings(overrides: Sequence[str]) -> MrcSettings:
    """Return the settings with ``KEY=VALUE`` overrides, as in ``selector.k_pages=16``.

    Raises
    ------
    ScenarioError
        Naming the key, and the nearest that exists.
    """
    tables = MrcSettings().model_dump(mode="python")
    for override in overrides:
        key, value = parse_override(override, example="selector.k_pages=16")
        set_at(tables, key.split("."), value)
    return validate(MrcSettings, tables, where="--set", error=ScenarioError)


def curve_of(path: Path, settings: MrcSettings) -> tuple[MissCurve, str]:
    """Return the curve of the accesses in `path`, and what its keys are, for people.

    Raises
    ------
    TraceError
        If the file cannot be read, or is of no kind that is known.
    """
    if path.name.endswith(".kvtrace"):
        trace = open_trace(path)
        keys = page_accesses(trace, settings.page_tokens, settings.selector)
        return miss_curve(keys), f"pages of {settings.page_tokens} tokens, {_selector_text(settings.selector)}"
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        tokens = settings.block_tokens
        blocks = gather(read_mooncake(path, block_tokens=tokens), block_tokens=tokens, source=path).blocks
        return miss_curve(blocks), f"blocks of {tokens} tokens"
    if path.name.endswith(".npy"):
        return miss_curve(_array_in(path)), "keys"
    if path.name.endswith((".txt", ".txt.gz")):
        numbers: dict[str, int] = {}
        keys = np.array([numbers.setdefault(text.strip(), len(numbers)) for _, text in lines_of(path)], dtype=np.int64)
        if not keys.size:
            raise TraceError(path, "no keys in it; one a line is expected")
        return miss_curve(keys), "keys"
    raise TraceError(path, f"not a file that mrc reads: it takes {', '.join(SUFFIXES)}")


def page_accesses(trace: AccessSource, page_tokens: int, choice: SelectorChoice) -> IntArray:
    """Return the ids of the pages that attention reads, decision by decision, those of one decision ascending."""
    selector = make_selector(choice)
    pages_per_layer = pages_of(int(trace.context_tokens(trace.num_steps - 1).max()), page_tokens)
    grid = PageGrid(num_sequences=trace.num_sequences, num_layers=trace.num_layers, pages_per_layer=pages_per_layer)
    accesses = []
    for step in range(trace.num_steps):
        counts = [pages_of(int(tokens), page_tokens) for tokens in trace.context_tokens(step)]
        for layer in range(trace.num_layers):
            scores = trace.scores(step, layer, choice.channel, page_tokens)
            for sequence, num_pages in enumerate(counts):
                chosen = selector.select(scores[sequence], num_pages)
                accesses.append(grid.first_page(sequence=sequence, layer=layer) + chosen)
    return np.concatenate(accesses)


def summary_of(curve: MissCurve, source: str, keys: str) -> dict[str, Any]:
    """Return what ``--json`` prints; `curve` is exact at every budget it lists."""
    budgets = shown_budgets(curve, points=200)
    return {
        "source": source,
        "keys": keys,
        "num_accesses": curve.num_accesses,
        "num_keys": curve.num_keys,
        "least_miss_frac": float(curve.miss_frac[-1]),
        "knee": {"budget": curve.knee, "miss_frac": float(curve.miss_frac[curve.knee])},
        "curve": {
            "budget": budgets,
            "misses": [int(curve.misses[budget]) for budget in budgets],
            "miss_frac": [float(curve.miss_frac[budget]) for budget in budgets],
        },
    }


def shown_budgets(curve: MissCurve, points: int) -> list[int]:
    """Return at most `points` budgets from 1 to all keys in even ratios, and the knee."""
    budgets = np.unique(np.geomspace(1, max(curve.num_keys, 1), points).round().astype(np.int64))
    return sorted({*budgets.tolist(), max(curve.knee, 1)})


def _array_in(path: Path) -> IntArray:
    try:
        keys = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        raise TraceError(path, f"not an array that numpy reads: {problem}") from None
    if not isinstance(keys, np.ndarray) or keys.ndim != 1 or keys.dtype.kind not in "iu" or not keys.size:
        raise TraceError(path, f"should hold a flat array of integer keys, found {_shape_text(keys)}")
    return keys.astype(np.int64)


def _shape_text(found: Any) -> str:
    return f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else "several arrays"


def _selector_text(choice: SelectorChoice) -> str:
    if choice.name == "full":
        return "all of them read"
    best = f"the best {choice.k_pages} a layer by {choice.channel}"
    return f"{best}, sinks {choice.sink_pages}, recent {choice.recent_pages}"
