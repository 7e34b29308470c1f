"""Times the link as a black box: transfers over pieces x bytes of a piece, alone and with both directions busy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from kvsim.calibration.fit import Sample, slowdown_frac
from kvsim.calibration.plan import Plan
from kvsim.calibration.timers import repeat_s
from kvsim.engine.links.base import EmulatedLink, Transfer, TransferKind
from kvsim.engine.links.page_pool import PagePool
from kvsim.types import FloatArray, PageGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSamples:
    """What was measured of both directions."""

    to_device: list[Sample]
    """(pages of the transfer, bytes of a page, seconds from hand-over to the waiting host's next instruction)."""
    to_host: list[Sample]
    both_ways_slowdown_frac: float


def link_samples(
    tokens: torch.Tensor, plan: Plan, *, bandwidth_bytes_per_s: float, advance: Callable[[int], None]
) -> LinkSamples:
    """Return samples of single transfers over the idle link, and how much two directions disturb each other.

    Parameters
    ----------
    tokens
        Random keys and values, ``[tokens, 2, num_kv_heads, head_dim]``: the pages that travel.
    """
    to_device: list[Sample] = []
    to_host: list[Sample] = []
    slowdowns: list[float] = []
    for page_tokens in plan.page_tokens:
        tested = _TestedLink(tokens, page_tokens, max(plan.pieces), bandwidth_bytes_per_s)
        for pieces in plan.pieces:
            down_s = tested.alone_s("demand", pieces, cap_s=plan.link_cap_s / 2)
            up_s = tested.alone_s("write-back", pieces, cap_s=plan.link_cap_s / 2)
            to_device += [(pieces, tested.page_bytes, time_s) for time_s in down_s.tolist()]
            to_host += [(pieces, tested.page_bytes, time_s) for time_s in up_s.tolist()]
            advance(1)
        slowdowns.append(tested.both_ways_slowdown_frac(plan.pieces[len(plan.pieces) // 2], cap_s=plan.link_cap_s))
        tested.link.close()
    return LinkSamples(to_device=to_device, to_host=to_host, both_ways_slowdown_frac=float(np.median(slowdowns)))


def num_link_points(plan: Plan) -> int:
    """Return how often `link_samples` reports an advance."""
    return len(plan.page_tokens) * len(plan.pieces)


def filled_pool(tokens: torch.Tensor, page_tokens: int, num_pages: int, *, device: str) -> PagePool:
    """Return a small host pool of random pages, all of them in device slots too; of fewer pages if `tokens` end."""
    pages = min(num_pages, len(tokens) // page_tokens)
    grid = PageGrid(num_sequences=1, num_layers=1, pages_per_layer=pages)
    host = tokens[: pages * page_tokens].view(1, 1, pages * page_tokens, *tokens.shape[1:])
    pool = PagePool(grid, host, page_tokens=page_tokens, num_slots=pages, device=device)
    pool.is_on_host[:] = True
    pool.place(np.arange(pages))
    return pool


def copy_of(pool: PagePool, kind: TransferKind, pieces: int) -> Transfer:
    """Return a transfer of the first pages of a pool to the device, or of the first of its second half to the host."""
    pages = np.arange(pieces) + (pool.grid.num_pages // 2 if kind == "write-back" else 0)
    return Transfer(kind=kind, pages=pages, slots=pool.slot_of[pages], step=0)


class _TestedLink:
    """An emulated link between a small host pool and device slots for all of it, twice: one half for each direction."""

    def __init__(self, tokens: torch.Tensor, page_tokens: int, num_pages: int, bandwidth_bytes_per_s: float) -> None:
        self._pool = filled_pool(tokens, page_tokens, 2 * num_pages, device="cpu")
        self.page_bytes = self._pool.page_bytes
        self.link = EmulatedLink(self._pool, bandwidth_bytes_per_s)

    def alone_s(self, kind: TransferKind, pieces: int, *, cap_s: float) -> FloatArray:
        """Return the seconds of repeated single transfers of `pieces` pages."""

        def once() -> None:
            transfer = copy_of(self._pool, kind, pieces)
            self.link.submit(transfer)
            self.link.wait([transfer])

        return repeat_s(once, cap_s=cap_s)

    def both_ways_slowdown_frac(self, pieces: int, *, cap_s: float) -> float:
        """Return how much longer a transfer to the device takes while the other direction copies all the time."""
        beside_s: list[float] = []
        alone_s: list[float] = []
        for _ in range(max(4, int(cap_s / (4 * pieces * self.page_bytes / 1e8)))):
            alone_s.append(self._one_s(pieces))
            for _ in range(3):
                self.link.submit(copy_of(self._pool, "write-back", pieces))
            beside_s.append(self._one_s(pieces))
            self.link.drain()
        return slowdown_frac(beside_s, alone_s)

    def _one_s(self, pieces: int) -> float:
        transfer = copy_of(self._pool, "demand", pieces)
        self.link.submit(transfer)
        self.link.wait([transfer])
        return transfer.end_s - transfer.start_s
