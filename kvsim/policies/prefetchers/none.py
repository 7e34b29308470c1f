"""No prefetching: every page that is read and not there is fetched on demand."""

from __future__ import annotations

from typing import ClassVar

from kvsim.policies.base import NO_PAGES, Setting, View
from kvsim.types import BoolArray, PageIds


class NoPrefetch:
    """Want nothing."""

    reads_speculation: ClassVar[bool] = False

    def __init__(self, setting: Setting) -> None:
        del setting

    def start(self, resident: PageIds) -> None:
        """Nothing to remember."""

    def opened(self, page: int) -> None:
        """Nothing to remember."""

    def left(self, victims: PageIds) -> None:
        """Nothing to remember."""

    def wanted(self, view: View) -> PageIds:
        """Return no pages."""
        del view
        return NO_PAGES

    def spared(self, view: View) -> BoolArray | None:
        """Spare nothing."""
        del view
        return None
