"""A run as it begins: a pool of the snapshot's memory and the budget's slots, and a link between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from kvsim.engine.links.base import Link
from kvsim.engine.links.page_pool import PagePool
from kvsim.engine.model.placement import torch_device_of
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.engine.paged.paged_run import PagedRun
from kvsim.engine.paged.prefill import Snapshot
from kvsim.engine.paged.stamps import Stamps
from kvsim.errors import CapacityError

MakeLink: TypeAlias = Callable[[PagePool], Link]


def fresh_run(
    model: Any, run_input: DecodeInput, snapshot: Snapshot, make_link: MakeLink, stamps: Stamps | None = None
) -> PagedRun:
    """Return a run on a pool and a link of its own, on the device where the layers of `model` lie."""
    pool = _make_pool(snapshot, run_input, device=str(torch_device_of(model)))
    link = make_link(pool)
    try:
        return PagedRun(model, run_input, snapshot, pool, link, stamps)
    except BaseException:
        link.close()
        raise


def _make_pool(snapshot: Snapshot, run_input: DecodeInput, *, device: str) -> PagePool:
    """Return the pool of a run: the snapshot's memory on the host, the budget's slots on the device.

    Where the policy drops pages, prefill leaves all of them on the device, so there is a slot for each.
    """
    setting = run_input.setting
    room_pages = snapshot.tokens.shape[2] // run_input.page_tokens
    if setting.grid.pages_per_layer > room_pages:
        raise CapacityError(
            f"the snapshot has room for {room_pages} pages, the run wants {setting.grid.pages_per_layer}"
        )
    return PagePool(
        setting.grid,
        snapshot.tokens,
        page_tokens=run_input.page_tokens,
        num_slots=(setting.grid.num_pages if run_input.drops else setting.capacity_pages) + setting.grid.num_sequences,
        device=device,
    )
