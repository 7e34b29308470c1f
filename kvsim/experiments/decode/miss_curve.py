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
from kvsim.scenario.shipped import CAPTURE_SUFFIX, REQUESTS_SUFFIX, find_capture, find_requests, shipped
from kvsim.scenario.toml import Strict, validate
from kvsim.traces.access.base import AccessSource
from kvsim.traces.access.registry import is_access_trace, open_accesses
from kvsim.traces.keys import key_column_of, read_array, read_column, read_lines
from kvsim.traces.requests.contents import blocks_of
from kvsim.traces.requests.registry import open_requests
from kvsim.traces.rows import rows_of
from kvsim.types import IntArray, PageGrid, pages_of


class MrcSettings(Strict):
    """What decides the accesses of a file besides the file."""

    page_tokens: PositiveInt = 32
    """Of an access trace."""
    selector: SelectorChoice = SelectorChoice(name="top-k", k_pages=8, sink_pages=1, recent_pages=2)
    """Which pages attention reads, of an access trace."""
    format: str | None = None
    """Of a request trace: one of docs/request-traces.md; found from the file's rows where absent."""
    block_tokens: PositiveInt | None = None
    """Of a request trace; the format's own where absent."""
    tokenizer: str | None = None
    """Of a request trace of text: ``bytes``, or the folder of a model with its ``tokenizer.json``."""
    part: str | None = None
    """Of an archive of sessions: the folder to read."""
    key_column: str | None = None
    """Of a CSV of keys: the column that holds them; found by its name where absent."""


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


def find_accesses(name_or_path: str) -> Path:
    """Return the file of a shipped request trace or capture, or of any trace given by path.

    Raises
    ------
    TraceError
        If there is none.
    """
    if name_or_path in shipped("captures", REQUESTS_SUFFIX) or Path(name_or_path).is_file():
        return find_requests(name_or_path)
    return find_capture(name_or_path)


def curve_of(path: Path, settings: MrcSettings) -> tuple[MissCurve, str]:
    """Return the curve of the accesses in `path`, and what its keys are, for people.

    Raises
    ------
    TraceError
        If the file cannot be read, or is in no known format.
    ScenarioError
        If it needs a setting.
    """
    if is_access_trace(path) or path.name.endswith(CAPTURE_SUFFIX):
        keys = page_accesses(open_accesses(path), settings.page_tokens, settings.selector)
        return miss_curve(keys), f"pages of {settings.page_tokens} tokens, {_selector_text(settings.selector)}"
    if path.suffix == ".npy":
        return miss_curve(read_array(path)), "keys"
    if path.name.endswith((".txt", ".txt.gz")) and settings.format is None:
        return miss_curve(read_lines(path)), "keys"
    column = settings.key_column
    if column is None and settings.format is None:
        column = next((key_column_of(row) for row in rows_of(path, settings.part)), None)
    if column is not None:
        return miss_curve(read_column(path, column)), f"keys of column {column}"
    trace = open_requests(path, settings.format, block_tokens=settings.block_tokens, part=settings.part)
    if trace.format.contents == "lengths":
        raise TraceError(path, f"format {trace.format.name!r} has lengths only, so which blocks recur is not known")
    blocks = blocks_of(trace, tokenizer=settings.tokenizer)
    return miss_curve(blocks.blocks), f"blocks ({blocks.reading})"


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


def _selector_text(choice: SelectorChoice) -> str:
    if choice.name == "full":
        return "all of them read"
    best = f"the best {choice.k_pages} a layer by {choice.channel}"
    return f"{best}, sinks {choice.sink_pages}, recent {choice.recent_pages}"
