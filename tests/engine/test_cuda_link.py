"""What the CUDA link issues and when, over streams that only keep a diary: there is no GPU in this test."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kvsim.engine.links import cuda as cuda_link  # noqa: E402
from kvsim.engine.links.base import Transfer  # noqa: E402
from kvsim.engine.links.cuda import CudaLink  # noqa: E402
from kvsim.engine.links.page_pool import EngineError  # noqa: E402
from kvsim.policies.selectors import TopK  # noqa: E402
from tests.engine.decoding import input_for, run, snapshot_of  # noqa: E402
from tests.engine.test_link import submitted  # noqa: E402


class _Event:
    """Done when the test says so."""

    finished: set[int] = set()

    def __init__(self, enable_timing=False):
        del enable_timing

    def record(self, stream=None):
        del stream

    def synchronize(self):
        _Event.finished.add(id(self))

    def query(self):
        return id(self) in _Event.finished

    def elapsed_time(self, other):
        del other
        return 1.0


class _Stream:
    waits: list[object] = []

    def __init__(self, device=None):
        del device

    def wait_event(self, event):
        _Stream.waits.append(event)

    def wait_stream(self, stream):
        del stream

    def synchronize(self):
        pass


def _keep_a_diary(monkeypatch, event):
    """Let the streams and events of torch be those of this test."""
    monkeypatch.setattr(torch.cuda, "Event", event)
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: _Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())


@pytest.fixture
def link(pool, monkeypatch):
    _keep_a_diary(monkeypatch, _Event)
    _Event.finished, _Stream.waits = set(), []
    return CudaLink(pool, window_transfers=2)


def _transfer(link, page, kind="prefetch", after=()):
    pages = np.array([page])
    return Transfer(kind=kind, pages=pages, slots=link._pool.take(pages), step=0, after=after)


def _issued(transfers):
    return [transfer.num_copied > 0 for transfer in transfers]


def test_prefetches_are_held_back_beyond_the_window_and_demand_is_not(link):
    prefetches = submitted(link, [_transfer(link, page) for page in range(4)])
    link.advance()
    demand = _transfer(link, 9, "demand")
    link.submit(demand)
    assert _issued(prefetches) == [True, True, False, False]
    assert _issued([demand]) == [True]
    assert torch.equal(link._pool.slots[demand.slots], link._pool.host_pages[0, [9]])


def test_the_window_moves_as_prefetches_finish(link):
    prefetches = submitted(link, [_transfer(link, page) for page in range(4)])
    link.advance()
    prefetches[0].done.wait()
    link.advance()
    assert _issued(prefetches) == [True, True, True, False]


def test_waiting_for_a_held_back_prefetch_issues_it(link):
    prefetches = submitted(link, [_transfer(link, page) for page in range(4)])
    link.advance()
    link.wait([prefetches[3]])
    assert _issued(prefetches) == [True, True, False, True]
    assert _Stream.waits[-1] is prefetches[3].done.event


def test_a_copy_waits_for_what_still_fills_its_slot(link):
    first = _transfer(link, 1)
    link.submit(first)
    second = _transfer(link, 2, "demand", after=(first,))
    link.submit(second)
    assert _issued([first, second]) == [True, True]
    assert _Stream.waits == [first.done.event]


def test_drain_issues_everything_and_waits(link):
    prefetches = submitted(link, [_transfer(link, page) for page in range(4)])
    assert link.drain() == prefetches
    assert all(transfer.is_done for transfer in prefetches)


def test_a_page_that_the_host_lacks_is_a_fault(link):
    link._pool.is_on_host[3] = False
    with pytest.raises(EngineError, match="page 3"):
        link.submit(_transfer(link, 3, "demand"))


def test_a_slowed_link_holds_its_stream_for_the_bytes_of_each_transfer(link, monkeypatch):
    slept = []
    monkeypatch.setattr(torch.cuda, "_sleep", slept.append, raising=False)
    monkeypatch.setattr(cuda_link, "cycles_per_s", lambda: 1e9)
    pool = link._pool
    slowed = CudaLink(pool, window_transfers=2, slowed_bytes_per_s=pool.page_bytes * 1e3)  # a page in a millisecond
    pages = np.array([1, 2, 5])
    slowed.submit(Transfer(kind="demand", pages=pages, slots=pool.take(pages), step=0))
    assert slept == [3_000_000]
    link.submit(_transfer(link, 7, "demand"))
    assert slept == [3_000_000]  # the other is as it is


def test_the_clock_of_the_devices_sleep_is_timed_until_it_holds(link, monkeypatch):
    times_ms = iter([4.0, 2.0, 1.0, 1.001, 9.0])  # an idle device starts slowly
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None, raising=False)
    monkeypatch.setattr(_Event, "elapsed_time", lambda self, other: next(times_ms))
    assert cuda_link.cycles_per_s.__wrapped__() == pytest.approx(20_000_000 / 1.001e-3)


class _Quick(_Event):
    """Done as soon as it was recorded."""

    def query(self):
        return True


@pytest.mark.parametrize("event", [_Event, _Quick], ids=["every copy is late", "no copy is late"])
@pytest.mark.parametrize("policy", ["lru", "attention", "stream", "s3-fifo"])
def test_a_run_over_the_cuda_link_reads_what_one_over_the_emulated_link_reads(policy, event, tiny_model, monkeypatch):
    snapshot = snapshot_of(tiny_model, prompt_tokens=150, num_steps=24)
    selector = None if policy == "stream" else TopK(k_pages=2, sink_pages=1, recent_pages=1)

    def decoded(**options):
        given = input_for(
            snapshot, policy, num_steps=24, pages_per_layer=8 if policy == "stream" else 5, selector=selector, quota=3
        )
        return run(tiny_model, snapshot, given, **options)

    expected = decoded()
    _keep_a_diary(monkeypatch, event)
    found = decoded(make_link=lambda pool, bandwidth: CudaLink(pool, window_transfers=2))
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.logits, expected.logits)
    assert expected.counts["to_device_bytes"].sum() > 0
    for name in ("hits", "misses", "prefetched", "used", "wasted", "evicted", "to_device_bytes", "to_host_bytes"):
        np.testing.assert_array_equal(found.counts[name], expected.counts[name], err_msg=name)


def test_a_slot_that_holds_another_page_is_not_written_back(link):
    first, second = _transfer(link, 4, "demand"), _transfer(link, 5, "demand")
    link.submit(first)
    link.submit(second)
    wrong = Transfer(
        kind="write-back", pages=np.array([4, 6]), slots=np.concatenate((first.slots, second.slots)), step=0
    )
    with pytest.raises(EngineError, match="holds page 5, not page 6"):
        link.submit(wrong)
