"""What most prefetchers share: they learn in decisions alone."""

from __future__ import annotations

from typing import ClassVar

from kvsim.policies.base import View
from kvsim.types import BoolArray, PageIds


class DecisionPrefetcher:
    """A prefetcher to which nothing matters between decisions, and that spares no page."""

    reads_speculation: ClassVar[bool] = False

    def start(self, resident: PageIds) -> None:
        """Nothing is known before the first step."""

    def opened(self, page: int) -> None:
        """Nothing to remember."""

    def left(self, victims: PageIds) -> None:
        """Nothing to remember."""

    def spared(self, view: View) -> BoolArray | None:
        """Spare nothing."""
        del view
        return None
