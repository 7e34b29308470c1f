"""Everything on the device: the upper bound on speed, which says when it does not fit."""

from __future__ import annotations

from typing import ClassVar, Literal

from kvsim.policies.base import NOTHING, Plan, Setting, View
from kvsim.types import PageIds


class Resident:
    """Keep every page on the device; nothing is ever fetched or evicted."""

    attends: ClassVar[Literal["selection", "everything", "resident"]] = "selection"
    holds: ClassVar[Literal["budget", "everything"]] = "everything"
    reads_selection: ClassVar[bool] = False

    def __init__(self, setting: Setting) -> None:
        del setting

    def start(self, resident: PageIds) -> None:
        """Nothing to remember."""

    def decide(self, view: View) -> Plan:
        """Return nothing to do."""
        del view
        return NOTHING

    def page_opened(self, page: int) -> None:
        """Nothing to remember."""
