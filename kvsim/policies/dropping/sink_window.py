"""Dropping all but the first and the latest tokens: attention sinks and a sliding window."""

from __future__ import annotations

from typing import ClassVar, Literal

from kvsim.policies.base import Plan, Setting, View
from kvsim.policies.dropping.share import over_share, plan_of
from kvsim.types import PageIds


class SinkWindow:
    """Keep the pinned first pages and the latest ones, as many as the budget holds; what leaves is gone.

    After StreamingLLM (arXiv 2309.17453); differs: whole pages, and positions stay those of the text instead of those
    within the cache. No score is read, so nothing needs to be scored.
    """

    attends: ClassVar[Literal["selection", "everything", "resident"]] = "resident"
    holds: ClassVar[Literal["budget", "everything"]] = "budget"
    reads_selection: ClassVar[bool] = False

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def start(self, resident: PageIds) -> None:
        """Nothing to remember: a page's place says it all."""

    def page_opened(self, page: int) -> None:
        """Nothing to remember."""

    def decide(self, view: View) -> Plan:
        """Return the oldest pages beyond the share."""
        return plan_of([pages[:count] for _, pages, count in over_share(view, self._setting)])
