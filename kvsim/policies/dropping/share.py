"""What policies that drop share: how many pages each layer may keep, and which of the others are worth least."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from kvsim.policies.base import NO_PAGES, NOTHING, Plan, Setting, View
from kvsim.types import PageIds


class Dropping:
    """What policies that drop pages have in common: they learn in decisions alone."""

    attends: ClassVar[Literal["selection", "everything", "resident"]] = "resident"
    holds: ClassVar[Literal["budget", "everything"]] = "budget"
    reads_selection: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def start(self, resident: PageIds) -> None:
        """Nothing is known of the prompt's attention."""

    def page_opened(self, page: int) -> None:
        """Nothing to remember."""


def retained_share(setting: Setting) -> int:
    """Return the pages that one layer of one sequence may keep: its equal share of the budget."""
    return setting.capacity_pages // (setting.grid.num_layers * setting.grid.num_sequences)


def over_share(view: View, setting: Setting) -> Iterator[tuple[int, PageIds, int]]:
    """Yield, for each sequence with more pages than its share, the pages that may leave, and how many must.

    Each is ``(sequence, pages, count)``; pages ascend, so the oldest tokens come first.
    """
    grid, share = setting.grid, retained_share(setting)
    for sequence in range(grid.num_sequences):
        first = grid.first_page(sequence=sequence, layer=view.layer)
        low, high = np.searchsorted(view.selected, (first, first + grid.pages_per_layer))
        held = view.selected[low:high]
        if held.size > share:
            yield sequence, held[view.evictable[held]], int(held.size) - share


def plan_of(victims: list[PageIds]) -> Plan:
    """Return the plan by which all `victims` leave for good."""
    return Plan(victims=np.concatenate(victims)) if victims else NOTHING


def lowest(pages: PageIds, worth: NDArray[np.floating], count: int) -> PageIds:
    """Return the `count` pages of least worth; ties to the smallest id."""
    return pages[np.argsort(worth, kind="stable")[:count]] if count > 0 else NO_PAGES
