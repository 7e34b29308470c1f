"""Dropping all but the first and the latest tokens: attention sinks and a sliding window."""

from __future__ import annotations

from typing import ClassVar

from kvsim.policies.base import Plan, View
from kvsim.policies.dropping.share import Dropping, over_share, plan_of


class SinkWindow(Dropping):
    """Keep the pinned first pages and the latest ones, as many as the budget holds; what leaves is gone.

    After StreamingLLM (arXiv 2309.17453); differs: whole pages, and positions stay those of the text instead of those
    within the cache. No score is read, so nothing needs to be scored.
    """

    reads_selection: ClassVar[bool] = False

    def decide(self, view: View) -> Plan:
        """Return the oldest pages beyond the share."""
        return plan_of([pages[:count] for _, pages, count in over_share(view, self._setting)])
