"""Threads share a model: each generates on a `PagedCache` of its own as if alone, and any may ask for a report."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kvsim.engine.links.base import EmulatedLink, Transfer  # noqa: E402
from kvsim.engine.model.forward import logits_of  # noqa: E402
from kvsim.engine.model.sdpa import cudnn_left_out  # noqa: E402
from kvsim.errors import KvsimError  # noqa: E402
from tests.engine.decoding import FAST_BYTES_PER_S, cache_of  # noqa: E402
from tests.engine.families.models import tiny_model_of  # noqa: E402
from tests.engine.test_paged_cache import assert_untouched  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT_TOKENS, NEW_TOKENS, NUM_THREADS, REPEATS = 150, 24, 4, 5
LONGEST_S = 600.0
"""No thread waits so long unless it waits for ever."""
SPECULATING = ("run.policies=[{name='lru', arguments={prefetch='speculation'}}]",)
CASES = [
    ("run.policies=['lru']", "selector.name='full'", "budget.pages_per_layer=7"),
    ("run.policies=['attention']",),
    ("run.policies=['stream']", "budget.pages_per_layer=11"),
    SPECULATING,
    ("run.policies=['lru']", "selector.channel='speculate:next-layer'"),
]


@pytest.fixture(scope="module", params=["llama", "gemma3_text", "deepseek_v2"])
def model(request):
    """Return a model with keys and values in pages, one with windows besides, one with latents."""
    return tiny_model_of(request.param)


def cache_for(model, *overrides, **options):
    max_tokens = PROMPT_TOKENS + NEW_TOKENS
    return cache_of(model, "selector.k_pages=3", *overrides, pages=7, max_tokens=max_tokens, **options)


def prompt_of(number):
    return torch.randint(3, 256, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(number))


def counts_of(report):
    """Return a report but for what depends on the clock."""
    return {name: value for name, value in dataclasses.asdict(report).items() if name != "late"}


@torch.no_grad()
def decode(model, cache, prompt, after_step=lambda: None):
    """Generate greedily, step by step, and return the tokens."""
    tokens = [logits_of(model, prompt, cache)[:, -1].argmax(dim=-1, keepdim=True)]
    while len(tokens) < NEW_TOKENS:
        tokens.append(logits_of(model, tokens[-1], cache)[:, -1].argmax(dim=-1, keepdim=True))
        after_step()
    return torch.cat(tokens, dim=1)


def in_threads(*work):
    """Do all of it at once, and return what each gave, or raise what one raised."""
    start = threading.Barrier(len(work))

    def begin(one):
        start.wait(LONGEST_S)
        return one()

    with ThreadPoolExecutor(len(work)) as threads:
        return [one.result(LONGEST_S) for one in [threads.submit(begin, one) for one in work]]


def test_caches_in_several_threads_generate_and_count_as_alone(model):
    def run(number):
        case = CASES[number % len(CASES)]
        with cache_for(model, *case) as cache:
            tokens = decode(model, cache, prompt_of(number))
        return tokens.tolist(), counts_of(cache.report())

    alone = [run(number) for number in range(len(CASES))]
    assert len({str(tokens) for tokens, _ in alone}) == len(CASES)  # or threads could be mistaken for one another
    orders = [[(first + place) % len(CASES) for place in range(len(CASES))] for first in range(NUM_THREADS)]
    together = in_threads(*(lambda order=order: [run(number) for number in order] for order in orders))
    assert together == [[alone[number] for number in order] for order in orders]
    assert_untouched(model)


def test_threads_that_speculate_hear_their_own_layers(tiny_model):
    """Each thread is at another layer of another prompt, and hooks of all sessions hear every pass."""

    def run(number):
        with cache_for(tiny_model, *SPECULATING) as cache:
            tokens = decode(tiny_model, cache, prompt_of(number))
        return tokens.tolist(), counts_of(cache.report())

    alone = [run(number) for number in range(NUM_THREADS)]
    assert all(counts["prefetched"] > 0 for _, counts in alone)
    for _ in range(REPEATS):
        assert in_threads(*(lambda number=number: run(number) for number in range(NUM_THREADS))) == alone
    assert_untouched(tiny_model)


def watched(model, cache):
    """Generate while two other threads ask for reports; return the tokens, and the last report of each step seen."""
    is_done, seen = threading.Event(), {}

    def watch():
        while not is_done.is_set():
            report = counts_of(cache.report())
            seen[report["num_steps"]] = report

    def run():
        try:
            return decode(model, cache, prompt_of(0))
        finally:
            is_done.set()

    return in_threads(run, watch, watch)[0], seen


@pytest.mark.parametrize("case", CASES)
def test_reports_of_other_threads_are_those_between_two_steps(tiny_model, case):
    between = [counts_of(cache_for(tiny_model, *case).report())]
    with cache_for(tiny_model, *case) as cache:
        tokens = decode(tiny_model, cache, prompt_of(0), lambda: between.append(counts_of(cache.report())))

    for _ in range(REPEATS):
        with cache_for(tiny_model, *case) as cache:
            own_tokens, seen = watched(tiny_model, cache)
            assert torch.equal(own_tokens, tokens)
        assert counts_of(cache.report()) == between[-1]
        expected = {number: between[number] | {"prompt_tokens": seen[number]["prompt_tokens"]} for number in seen}
        assert str(seen) == str(expected)  # NaN before the first step
    assert_untouched(tiny_model)


def test_caches_come_and_go_while_another_thread_decodes(tiny_model):
    with cache_for(tiny_model, *SPECULATING) as cache:
        expected = decode(tiny_model, cache, prompt_of(0))

    def open_and_close():
        for _ in range(10 * REPEATS):
            cache_for(tiny_model, *SPECULATING).close()

    def run():
        tokens = []
        for _ in range(REPEATS):
            with cache_for(tiny_model, *SPECULATING) as cache:
                tokens.append(decode(tiny_model, cache, prompt_of(0)))
        return tokens

    *_, tokens, more = in_threads(open_and_close, open_and_close, run, run)
    assert all(torch.equal(own, expected) for own in (*tokens, *more))
    assert_untouched(tiny_model)


@pytest.mark.parametrize("slowness", range(1, 4 * REPEATS))
def test_a_cache_closed_by_another_thread_ends_its_generation_with_one_line(tiny_model, slowness):
    cache = cache_for(tiny_model, "run.policies=['lru']", bandwidth_bytes_per_s=FAST_BYTES_PER_S / slowness)
    has_begun, is_closed, steps = threading.Event(), threading.Event(), iter(range(2, NEW_TOKENS))

    def after_step():
        has_begun.set()
        if next(steps) == NEW_TOKENS - 1:  # at the latest before the last step
            assert is_closed.wait(LONGEST_S)

    def run():
        with pytest.raises(KvsimError, match="closed"):
            decode(tiny_model, cache, prompt_of(0), after_step)

    def close():
        assert has_begun.wait(LONGEST_S)
        cache.close()
        is_closed.set()

    in_threads(run, close)
    assert 0 < cache.report().num_steps < NEW_TOKENS - 1
    assert_untouched(tiny_model)


def transfer_of(pool, kind, page, *after):
    pages = np.array([page])
    slots = pool.slot_of[pages] if kind == "write-back" else pool.take(pages)
    return Transfer(kind=kind, pages=pages, slots=slots, step=0, after=after)


def test_a_demand_behind_a_prefetch_behind_a_write_back_arrives(pool):
    """The lane to the device must not wait for its own prefetch: what holds both up is the other lane's."""
    pool.place(np.array([0]))
    link = EmulatedLink(pool, pool.page_bytes / 0.05)
    back = transfer_of(pool, "write-back", 0)
    early = transfer_of(pool, "prefetch", 1, back)
    demand = transfer_of(pool, "demand", 2, early)
    for transfer in (back, early, demand):
        link.submit(transfer)
    waiting = threading.Thread(target=link.wait, args=([demand],), daemon=True)
    waiting.start()
    waiting.join(LONGEST_S)
    assert demand.is_done
    link.close()


def test_lanes_that_wait_for_one_another_serve_whatever_ends_meanwhile(pool):
    """A write-back may end between the look for what may start and the look for what to wait for."""
    pool.place(np.array([0]))
    link = EmulatedLink(pool, 1e12)

    def run():
        for _ in range(500):
            back = transfer_of(pool, "write-back", 0)
            early = transfer_of(pool, "prefetch", 1, back)
            link.submit(back)
            link.submit(early)
            link.wait([back, early])
            pool.release(np.array([1]), np.array([False]))

    working = threading.Thread(target=run, daemon=True)
    working.start()
    working.join(LONGEST_S)
    assert not working.is_alive()
    link.close()


def test_a_transfer_that_is_done_looks_so_to_all_who_wait(pool):
    link = EmulatedLink(pool, 1e12)
    demand = transfer_of(pool, "demand", 1)
    link.submit(demand)
    link.wait([demand])

    def look():
        for _ in range(20_000):
            demand.done.wait()
            assert demand.is_done

    in_threads(look, look, look)
    link.close()


def test_a_closed_link_refuses_transfers(pool):
    link = EmulatedLink(pool, 1e12)
    link.close()
    with pytest.raises(KvsimError, match="link is closed"):
        link.submit(transfer_of(pool, "demand", 1))


def test_cudnn_stays_out_until_the_last_block_of_all_threads_ends():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(cudnn_left_out())
        second.enter_context(cudnn_left_out())
        first.close()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        second.close()
        assert torch.backends.cuda.cudnn_sdp_enabled() == before
