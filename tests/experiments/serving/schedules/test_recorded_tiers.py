"""Schedules of vLLM 0.32.0 with its native offloading to the host, recorded step by step, made again.

A link reports a copy done at its n-th poll, so nothing depends on a clock. Of requests that end in one step vLLM takes
note in the order of a Python set of strings, which differs from process to process: for two recordings a seed is given
under which ours comes in the same order.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kvsim.caches.tiers import Presence
from kvsim.caches.tiers.offload import Offload
from kvsim.caches.tiers.orders import CHUNK_ORDERS, ArcOrder, LruOrder
from kvsim.experiments.serving.schedules.compare import first_difference
from kvsim.experiments.serving.schedules.replay import drive
from kvsim.experiments.serving.schedules.workload import read_workload
from kvsim.policies.schedulers.vllm import Vllm
from tests.experiments.serving.schedules.polled import core_of

FOLDER = Path(__file__).parent / "vllm-0.32.0-host"
NAMES = sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz"))
SEEDS = {"host-arc-chunks": 2, "host-long": 0}


def make_again(name, offload=Offload, **parts):
    """Return where our schedule leaves the recorded one, and whether the transfers are the same."""
    workload = read_workload(FOLDER / f"{name}.json.gz")
    tier, transfers = workload.made_by["tier"], workload.made_by["transfers"]
    shuffle = random.Random(SEEDS[name]).shuffle if name in SEEDS else lambda requests: None

    class InThatOrder(offload):
        def _end_requests(self):
            ended = list(self._finished)
            shuffle(ended)
            self._finished.clear()
            self._finished.extend(ended)
            super()._end_requests()

    core, replayable = core_of(workload, tier, offload=InThatOrder, **parts)
    difference = first_difference(workload, drive(core, workload, replayable))
    core.offload.host._check()
    return difference, core.log == [tuple(transfer) for transfer in transfers]


@pytest.mark.parametrize("name", NAMES)
def test_every_step_and_every_transfer_is_vllm_s(name):
    assert make_again(name) == (None, True)


class IgnoresLoads(Offload):
    """Loads a chunk a second time while it is being loaded for another request."""

    def begin_load(self, *arguments):
        super().begin_load(*arguments)
        self._loading.clear()


class TakesComingForAbsent(Offload):
    """Computes again what is on its way to the host."""

    def _run(self, chunks):
        present = [self.host.presence(chunk) is Presence.PRESENT for chunk in chunks]
        return (present + [False]).index(False), False


class NeverFlushes(Offload):
    """Lets blocks be written to while a store still reads them."""

    def take_new(self):
        new, _ = super().take_new()
        return new, set()


class OffersOnce(Offload):
    """Forgets what the host had no room for."""

    def _offer(self, request, end, held):
        store = super()._offer(request, end, held)
        self._of(request).next_chunk = max(self._of(request).next_chunk, end)
        return store


class OffersHitsAgain(Offload):
    """Offers what was loaded as if it were new."""

    def begin_load(self, request, hit_tokens, tokens):
        super().begin_load(request, hit_tokens, tokens)
        self._of(request.index).next_chunk = 0


class ForgetsEnds(Offload):
    """Does not refresh chunks when a request ends."""

    def _end_requests(self):
        self._finished.clear()


class HeadFirst(LruOrder):
    """Puts the tail of a prompt behind its head, so that the head leaves first."""

    def finished(self, keys, reused, inserted_only):
        super().finished(list(reversed(keys)), reused, inserted_only)


class PromotesAll(ArcOrder):
    """Takes a store for a use."""

    def finished(self, keys, reused, inserted_only):
        super().finished(keys, set(keys), set())


class WaitsBehind(Vllm):
    """Lets nobody pass a request whose chunks are on their way."""

    def _schedule_waiting(self, state, budget, plan, limit, tokens_left):
        head = state.waiting.head() if len(state.waiting) else None
        if head is not None and state.loadable_tokens(head, 0) is None:
            return
        super()._schedule_waiting(state, budget, plan, limit, tokens_left)


class LoadedLast(Vllm):
    """Serves new requests before those that have loaded."""

    def _schedule_holding(self, state, budget, plan, limit, tokens_left):
        if len(state.waiting) and not plan.scheduled:
            return tokens_left
        return super()._schedule_holding(state, budget, plan, limit, tokens_left)


@pytest.mark.parametrize(
    "parts",
    [
        {"offload": IgnoresLoads},
        {"offload": TakesComingForAbsent},
        {"offload": NeverFlushes},
        {"offload": OffersOnce},
        {"offload": OffersHitsAgain},
        {"offload": ForgetsEnds},
        {"scheduler": WaitsBehind},
        {"scheduler": LoadedLast},
    ],
    ids=lambda parts: next(iter(parts.values())).__name__,
)
def test_a_rule_that_is_broken_shows_in_some_recording(parts):
    assert any(make_again(name, **parts) != (None, True) for name in NAMES)


@pytest.mark.parametrize(("name", "order"), [("lru", HeadFirst), ("arc", PromotesAll)])
def test_an_order_that_is_broken_shows_too(monkeypatch, name, order):
    monkeypatch.setitem(CHUNK_ORDERS, name, order)
    assert any(make_again(recording) != (None, True) for recording in NAMES)
