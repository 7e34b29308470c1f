"""The paged engine answers as transformers' own cache does, whatever moves, and notices a wrong page."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kvsim.engine.links.base import EmulatedLink, Transfer  # noqa: E402
from kvsim.engine.links.page_pool import EngineError, PagePool  # noqa: E402
from kvsim.engine.paged.decode import decode  # noqa: E402
from kvsim.engine.paged.prefill import prefill  # noqa: E402
from kvsim.errors import CapacityError  # noqa: E402
from kvsim.policies.residency import Residency  # noqa: E402
from kvsim.policies.selectors import Full, Threshold, TopK  # noqa: E402
from tests.engine.decoding import FAST_BYTES_PER_S, default_cache_logits, input_for, run, snapshot_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_STEPS = 36  # two pages open and one fills
PROMPT_TOKENS = 150


@pytest.fixture(scope="module")
def ids(tiny_model):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(3, tiny_model.config.vocab_size, (2, PROMPT_TOKENS), generator=generator)


@pytest.fixture(scope="module")
def expected(tiny_model, ids):
    return default_cache_logits(tiny_model, ids, NUM_STEPS)


@pytest.fixture(scope="module")
def snapshot(tiny_model, ids):
    return prefill(tiny_model, ids, room_tokens=NUM_STEPS, chunk_tokens=64)


@pytest.mark.parametrize(
    ("policy", "pages_per_layer", "selector"),
    [
        ("resident", 1, None),
        *(("stream", pages, None) for pages in (8, 9, 11)),  # 12 pages a sequence at the end, 2 of 3 layers at once
        *itertools.product(("lru", "attention"), (5, 7, 12), (None, Full())),
    ],
)
def test_full_attention_over_pages_equals_the_default_cache(
    tiny_model, snapshot, expected, policy, pages_per_layer, selector
):
    given = input_for(snapshot, policy, num_steps=NUM_STEPS, pages_per_layer=pages_per_layer, selector=selector)
    result = run(tiny_model, snapshot, given)

    assert torch.equal(result.tokens, expected[1])
    torch.testing.assert_close(result.logits, expected[0], rtol=2e-5, atol=2e-5)
    if policy != "resident" and pages_per_layer < 12:
        assert result.counts["to_device_bytes"].sum() > 0  # or nothing was put to the test


def test_a_prompt_of_whole_pages_opens_a_page_at_the_first_step(tiny_model, ids):
    prompt = ids[:, :144]
    tokens = default_cache_logits(tiny_model, prompt, 20)[1]
    snapshot = prefill(tiny_model, prompt, room_tokens=20)
    result = run(tiny_model, snapshot, input_for(snapshot, "lru", num_steps=20, pages_per_layer=6))
    assert torch.equal(result.tokens, tokens)


def test_bf16_full_attention_agrees_with_the_default_cache_to_its_precision(tiny_model, ids):
    model = type(tiny_model)(tiny_model.config).to(torch.bfloat16)
    model.load_state_dict(tiny_model.state_dict())
    model.eval()
    logits, tokens = default_cache_logits(model, ids, NUM_STEPS)
    fed = torch.cat((prefill(model, ids, room_tokens=0).next_token, tokens[:, :-1]), dim=1)
    snapshot = prefill(model, ids, room_tokens=NUM_STEPS)
    given = input_for(snapshot, "lru", num_steps=NUM_STEPS, pages_per_layer=6, selector=Full())
    result = run(model, snapshot, given, forced_tokens=fed)
    difference = (result.logits - logits.float()).abs().mean() / logits.float().std()
    assert difference < 0.02


@pytest.mark.parametrize("partition", ["shared", "per_layer"])
@pytest.mark.parametrize(
    "selector",
    [
        TopK(k_pages=2, sink_pages=1, recent_pages=1),
        Threshold(threshold=0.9, max_k_pages=4, sink_pages=1, recent_pages=1),
    ],
)
def test_selected_pages_give_the_same_logits_under_every_policy_and_budget(
    tiny_model, snapshot, expected, selector, partition
):
    reference = run(
        tiny_model, snapshot, input_for(snapshot, "resident", num_steps=NUM_STEPS, pages_per_layer=1, selector=selector)
    )
    assert not torch.allclose(reference.logits, expected[0], atol=1e-3)  # pages were left out
    for policy, pages in itertools.product(("lru", "attention"), (7, 8, 10)):
        given = input_for(
            snapshot,
            policy,
            num_steps=NUM_STEPS,
            pages_per_layer=pages,
            selector=selector,
            partition=partition,
            pinned=(1, 1),
        )
        result = run(tiny_model, snapshot, given)
        torch.testing.assert_close(result.logits, reference.logits, rtol=1e-6, atol=1e-6)
        assert np.array_equal(result.counts["selected"], reference.counts["selected"])


def _top_k_input(snapshot, policy="attention"):
    selector = TopK(k_pages=2, sink_pages=1, recent_pages=1)
    return input_for(
        snapshot, policy, num_steps=NUM_STEPS, pages_per_layer=6, selector=selector, pinned=(1, 1), quota=3
    )


def test_counts_of_the_mechanism_add_up(tiny_model, snapshot):
    counts = run(tiny_model, snapshot, _top_k_input(snapshot)).counts
    assert np.array_equal(counts["hits"] + counts["misses"], counts["selected"])
    assert counts["prefetched"].sum() == counts["used"].sum() + counts["wasted"].sum() > 0
    page_bytes = 2 * 2 * 16 * 4 * 16
    assert counts["to_device_bytes"].sum() == (counts["misses"] + counts["prefetched"]).sum() * page_bytes
    filled_pages = 2 * 3 * ((PROMPT_TOKENS + NUM_STEPS) // 16 - PROMPT_TOKENS // 16)
    assert counts["to_host_bytes"].sum() == filled_pages * page_bytes


def test_a_slow_link_makes_pages_late_and_changes_nothing_else(tiny_model, snapshot):
    fast, slow = (
        run(
            tiny_model,
            snapshot,
            input_for(snapshot, "stream", num_steps=4, pages_per_layer=8),
            bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        )
        for bandwidth_bytes_per_s in (1e12, 2e6)
    )
    assert slow.counts["late"].sum() > fast.counts["late"].sum()
    for name in ("selected", "hits", "misses", "prefetched", "used", "wasted", "evicted", "digest"):
        assert np.array_equal(fast.counts[name], slow.counts[name]), name
    assert torch.equal(fast.logits, slow.logits)


def test_runs_from_one_snapshot_do_not_disturb_each_other(tiny_model, snapshot):
    first = run(tiny_model, snapshot, _top_k_input(snapshot))
    run(tiny_model, snapshot, input_for(snapshot, "stream", num_steps=NUM_STEPS, pages_per_layer=8))
    again = run(tiny_model, snapshot, _top_k_input(snapshot))
    assert torch.equal(first.logits, again.logits)
    assert np.array_equal(first.counts["digest"], again.counts["digest"])


def test_stamped_parts_add_up_to_the_step(tiny_model, snapshot):
    result = decode(
        tiny_model, snapshot, _top_k_input(snapshot), bandwidth_bytes_per_s=FAST_BYTES_PER_S, is_stamped=True
    )
    total_s = sum(part.reshape(NUM_STEPS, -1).sum(axis=1) for part in result.parts_s.values())
    assert (total_s <= result.step_s + 1e-6).all()
    assert np.median(result.step_s - total_s) < 2e-4
    assert result.parts_s["stall"].sum() > 0


# What follows breaks the machine on purpose: each fault must raise or show in the logits.


class _SkipsOneCopy(EmulatedLink):
    """Tags a slot as filled without the bytes, once."""

    def __init__(self, pool: PagePool, bandwidth_bytes_per_s: float) -> None:
        copy = pool.load

        def load(pages, slots):
            if pool.has_skipped:
                return copy(pages, slots)
            pool.has_skipped = True
            pool.tag_of[slots] = pages
            return int(pages.size)

        pool.has_skipped = False
        pool.load = load
        super().__init__(pool, bandwidth_bytes_per_s)


def test_a_copy_that_is_skipped_shows_as_nan(tiny_model, snapshot):
    result = run(tiny_model, snapshot, _top_k_input(snapshot, "lru"), make_link=_SkipsOneCopy)
    assert result.logits.isnan().any()


class _LosesOneTransfer(EmulatedLink):
    """Reports one transfer as done and copies nothing."""

    def submit(self, transfer: Transfer) -> None:
        if transfer.kind == "demand" and not getattr(self, "has_lost", False):
            self.has_lost = True
            transfer.done.open()
            return
        super().submit(transfer)


def test_a_lost_transfer_is_caught_by_the_slot_tags(tiny_model, snapshot):
    with pytest.raises(EngineError, match="attention wants page"):
        run(tiny_model, snapshot, _top_k_input(snapshot, "lru"), make_link=_LosesOneTransfer)


def test_swapped_victims_are_caught(tiny_model, snapshot, monkeypatch):
    release = PagePool.release

    def swapped(pool, pages, is_leaving):
        wrong = pages.copy()
        residents = np.flatnonzero(pool.slot_of >= 0)
        wrong[0] = next(page for page in residents.tolist() if page not in pages)
        return release(pool, wrong, is_leaving)

    monkeypatch.setattr(PagePool, "release", swapped)
    with pytest.raises(EngineError):
        run(tiny_model, snapshot, _top_k_input(snapshot, "lru"))


@pytest.mark.parametrize("policy", ["lru", "attention", "stream"])
def test_a_page_evicted_while_it_is_written_back_keeps_its_bytes(tiny_model, monkeypatch, policy):
    """Copies to the host that start late: the slots of their pages are wanted before."""
    store = PagePool.store

    def late(pool, pages, slots):
        time.sleep(0.03)
        return store(pool, pages, slots)

    monkeypatch.setattr(PagePool, "store", late)
    snapshot = snapshot_of(tiny_model, prompt_tokens=61, num_steps=24)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, tiny_model.config.vocab_size, (1, 61), generator=generator)
    logits, tokens = default_cache_logits(tiny_model, ids, 24)
    given = input_for(snapshot, policy, num_steps=24, pages_per_layer=4)
    result = run(tiny_model, snapshot, given)
    assert result.counts["to_host_bytes"].sum() > 0
    assert result.counts["evicted"].sum() > 0
    assert torch.equal(result.tokens, tokens)
    torch.testing.assert_close(result.logits, logits, rtol=1e-4, atol=1e-4)


def test_a_stale_slot_is_caught(tiny_model, snapshot, monkeypatch):
    take = PagePool.take

    def stale(pool, pages):
        slots = take(pool, pages)
        pool.slot_of[pages] = np.roll(slots, 1) if pages.size > 1 else slots
        return slots

    monkeypatch.setattr(PagePool, "take", stale)
    with pytest.raises(EngineError):
        run(tiny_model, snapshot, input_for(snapshot, "lru", num_steps=NUM_STEPS, pages_per_layer=5))


def test_reading_a_freed_slot_gives_nan(tiny_model, snapshot, monkeypatch):
    """The tags off, poison alone must show it."""
    monkeypatch.setattr(PagePool, "check", lambda pool, pages, slots: None)
    monkeypatch.setattr(EmulatedLink, "wait", lambda link, transfers: None)
    given = _top_k_input(snapshot, "lru")
    result = run(tiny_model, snapshot, given, bandwidth_bytes_per_s=1e6, make_link=_NeverCopies)
    assert result.logits.isnan().any()


class _NeverCopies(EmulatedLink):
    def submit(self, transfer: Transfer) -> None:
        transfer.num_copied = transfer.pages.size
        transfer.done.open()
        self._submitted.append(transfer)


def test_a_policy_that_decides_otherwise_gives_another_digest(tiny_model, snapshot, monkeypatch):
    before = run(tiny_model, snapshot, _top_k_input(snapshot)).counts["digest"]
    decide = Residency.decide

    def reordered(residency, **view):
        decision = decide(residency, **view)
        return type(decision)(
            **{name: getattr(decision, name) for name in decision.__slots__ if name != "prefetches"},
            prefetches=decision.prefetches[::-1],
        )

    monkeypatch.setattr(Residency, "decide", reordered)
    after = run(tiny_model, snapshot, _top_k_input(snapshot)).counts["digest"]
    assert not np.array_equal(before, after)


def test_snapshot_without_room_is_refused(tiny_model):
    snapshot = snapshot_of(tiny_model, prompt_tokens=120, num_steps=8)
    with pytest.raises(CapacityError, match="has room for 8 pages"):
        run(tiny_model, snapshot, input_for(snapshot, "lru", num_steps=40, pages_per_layer=8))
