"""Which cells of a sweep no other beats under the same conditions, and what its fields are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kvsim.experiments.decode.entry import Entry
from kvsim.experiments.decode.report.table import swept_keys

Summary = Mapping[str, Any]

FIELD_NAMES = {
    "policy": "policy",
    "page_tokens": "page size, tokens",
    "budget.pages_per_layer": "budget, pages a layer",
    "budget.context_frac": "budget, share of all pages",
    "budget.bytes": "budget, bytes",
    "trace.extrapolate.context_tokens": "context, tokens",
    "prefetch.quota_pages": "prefetch quota, pages a decision",
    "prefetch.chunk_pages": "pages of a prefetch transfer",
    "prefetch.window_transfers": "prefetch window, transfers",
    "run.batch": "batch, sequences",
    "run.seed": "seed",
    "selector.k_pages": "pages chosen by score",
    "selector.channel": "score that chooses",
    "profile.path": "profile",
    "trace.path": "trace",
}
"""What axes and tables call a field, with its unit."""

_UNCHOSEN = ("trace.", "run.batch", "run.seed", "profile.", "measure.", "model.")
"""How fields begin that a user is given and does not choose."""


def field_name(key: str) -> str:
    """Return what an axis calls a field.

    Examples
    --------
    >>> field_name("page_tokens"), field_name("policies.decay_steps")
    ('page size, tokens', 'decay steps')
    """
    return FIELD_NAMES.get(key, key.rsplit(".", 1)[-1].replace("_", " "))


def varied_fields(summary: Summary) -> list[str]:
    """Return ``policy`` and the swept fields, those left out that have one value in all cells."""
    cells = summary["cells"]
    return [key for key in ("policy", *swept_keys(summary)) if len({str(cell.get(key)) for cell in cells}) > 1]


def conditions_of(summary: Summary) -> list[str]:
    """Return the varied fields that are given and not chosen: what is read, how long, how many, on what, which seed."""
    return [key for key in varied_fields(summary) if key.startswith(_UNCHOSEN)]


def front_of(summary: Summary) -> list[int]:
    """Return the cells that no other of the same conditions beats in time, memory and attention recall, fastest first.

    Conditions as in `conditions_of`: a cell on one text is not held against one on another. Of cells equal in all three
    the first stands for all. Those that do not fit the device are left out, unless none fits; an unknown mass counts as
    none kept.
    """
    cells, keys = summary["cells"], conditions_of(summary)
    fits_any = any(cell["fits"] for cell in cells)
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, cell in enumerate(cells):
        if cell["fits"] or not fits_any:
            groups.setdefault(tuple(str(cell.get(key)) for key in keys), []).append(number)
    return [number for numbers in groups.values() for number in _front_among(cells, numbers)]


def _front_among(cells: Sequence[Entry], numbers: list[int]) -> list[int]:
    costs = np.array([_costs(cells[number]) for number in numbers])
    order = np.lexsort((np.arange(len(numbers)), costs[:, 2], costs[:, 1], costs[:, 0]))
    front: list[int] = []
    for place in order:  # whoever beats a cell comes before it
        if not any(bool((costs[other] <= costs[place]).all()) for other in front):
            front.append(int(place))
    return [numbers[place] for place in front]


def _costs(cell: Entry) -> tuple[float, float, float]:
    return cell["tpot_p50_s"], cell["device_bytes"], 1.0 - (cell["mass_recall_frac"] or 0.0)
