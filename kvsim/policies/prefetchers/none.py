"""No prefetching: every page that is read and not there is fetched on demand."""

from __future__ import annotations

from kvsim.policies.base import NO_PAGES, Setting, View
from kvsim.policies.prefetchers.base import DecisionPrefetcher
from kvsim.types import PageIds


class NoPrefetch(DecisionPrefetcher):
    """Want nothing."""

    def __init__(self, setting: Setting) -> None:
        del setting

    def wanted(self, view: View) -> PageIds:
        """Return no pages."""
        del view
        return NO_PAGES
