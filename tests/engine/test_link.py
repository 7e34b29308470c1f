"""The emulated link really copies, keeps to its bandwidth, and takes what is urgent first."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kvsim.engine.links.base import EmulatedLink, Transfer  # noqa: E402
from kvsim.engine.links.page_pool import EngineError  # noqa: E402


def transfer_of(pool, pages, kind="demand", after=()):
    pages = np.array(pages)
    slots = pool.take(pages) if (pool.slot_of[pages] < 0).all() else pool.slot_of[pages]
    return Transfer(kind=kind, pages=pages, slots=slots, step=0, after=after)


def submitted(link, transfers):
    for transfer in transfers:
        link.submit(transfer)
    return transfers


def test_pages_arrive_whole_and_tagged(pool):
    link = EmulatedLink(pool, 1e9)
    transfer = transfer_of(pool, [3, 1, 7])
    assert pool.slots[transfer.slots].isnan().all()
    link.submit(transfer)
    link.wait([transfer])
    link.close()
    assert torch.equal(pool.slots[transfer.slots], pool.host_pages[0, [3, 1, 7]])
    assert pool.tag_of[transfer.slots].tolist() == [3, 1, 7]
    assert transfer.num_copied == 3


def test_back_to_back_transfers_keep_to_the_stated_bandwidth(pool):
    page_s = 5e-3
    link = EmulatedLink(pool, pool.page_bytes / page_s)
    transfers = submitted(link, [transfer_of(pool, [page]) for page in range(8)])
    link.drain()
    link.close()
    lengths_s = [after.end_s - before.end_s for before, after in itertools.pairwise(transfers)]
    assert np.median(lengths_s) == pytest.approx(page_s, rel=0.2)  # late awakenings do not add up
    assert transfers[-1].end_s - transfers[0].start_s >= 8 * page_s - 1e-9


def test_an_idle_link_starts_at_submission(pool):
    link = EmulatedLink(pool, pool.page_bytes / 2e-3)
    first = transfer_of(pool, [0])
    link.submit(first)
    link.wait([first])
    time.sleep(5e-3)
    second = transfer_of(pool, [1])
    link.submit(second)
    link.wait([second])
    link.close()
    assert second.start_s == second.submitted_s > first.end_s


def test_demand_overtakes_prefetches_that_wait(pool):
    link = EmulatedLink(pool, pool.page_bytes / 5e-3)
    prefetches = submitted(link, [transfer_of(pool, [page], "prefetch") for page in range(4)])
    demand = transfer_of(pool, [9])
    link.submit(demand)
    link.drain()
    link.close()
    assert demand.start_s < prefetches[1].start_s
    assert [prefetch.start_s for prefetch in prefetches] == sorted(prefetch.start_s for prefetch in prefetches)


def test_demand_waits_for_the_prefetch_that_still_fills_its_slot(pool):
    link = EmulatedLink(pool, pool.page_bytes / 3e-3)
    prefetches = submitted(link, [transfer_of(pool, [page], "prefetch") for page in range(3)])
    demand = transfer_of(pool, [9], after=(prefetches[2],))
    link.submit(demand)
    link.drain()
    link.close()
    assert demand.start_s >= prefetches[2].end_s


def test_write_back_stores_the_page_and_copies_wait_for_it(pool):
    link = EmulatedLink(pool, pool.page_bytes / 3e-3)
    slots = pool.take(np.array([5]))
    pool.slots[slots] = 1.5
    pool.tag_of[slots] = 5
    pool.is_on_host[5] = False
    back = Transfer(kind="write-back", pages=np.array([5]), slots=slots, step=0)
    link.submit(back)
    again = transfer_of(pool, [6], after=(back,))
    link.submit(again)
    link.drain()
    link.close()
    assert bool(pool.is_on_host[5])
    assert (pool.host_pages[0, 5] == 1.5).all()
    assert again.end_s >= back.end_s + 3e-3 - 1e-9


def test_a_page_the_host_does_not_hold_is_a_fault_told_to_the_waiter(pool):
    pool.is_on_host[2] = False
    link = EmulatedLink(pool, 1e9)
    transfer = transfer_of(pool, [2])
    link.submit(transfer)
    with pytest.raises(EngineError, match="a copy failed") as caught:
        link.wait([transfer])
    assert "which does not hold it" in str(caught.value.__cause__)
    link.close()


def test_writing_back_a_slot_of_another_page_is_a_fault(pool):
    link = EmulatedLink(pool, 1e9)
    slots = pool.take(np.array([5]))
    back = Transfer(kind="write-back", pages=np.array([5]), slots=slots, step=0)
    link.submit(back)
    with pytest.raises(EngineError):
        link.drain()
    link.close()
