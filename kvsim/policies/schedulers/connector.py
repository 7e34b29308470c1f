"""What a scheduler and its core ask of the tiers below the device; `kvsim.caches.tiers.offload.Offload` answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from kvsim.policies.schedulers.request import Request


class Connector(Protocol):
    """The tiers of one engine, over its block tables."""

    @property
    def num_under_way(self) -> int:
        """Transfers that have not ended."""

    def loadable_tokens(self, request: Request, hit_tokens: int) -> int | None:
        """Return how many tokens behind its hits on the device a request should load; None: ask again next step."""

    def begin_load(self, request: Request, hit_tokens: int, tokens: int) -> None:
        """Start to load tokens into the blocks that the request has been given."""

    def is_loaded(self, request: Request) -> bool:
        """Return whether a request that loads has all."""

    def scheduled(
        self,
        batch: Iterable[tuple[Request, int]],
        *,
        admitted: Iterable[tuple[Request, int]],
        preempted: Iterable[Request],
        evicted: Iterable[int],
    ) -> None:
        """Take in a step that was just scheduled, before what it computes counts as computed."""

    def finished(self, request: int) -> None:
        """Note that a request has ended; its blocks may be handed out again."""
