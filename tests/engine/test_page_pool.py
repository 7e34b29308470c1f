"""Pages are placed run by run and gathered from any room, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kvsim.engine.links.page_pool import PagePool  # noqa: E402
from kvsim.types import PageGrid  # noqa: E402

PAGE_TOKENS, PAGES = 4, 5
GRID = PageGrid(num_sequences=2, num_layers=3, pages_per_layer=PAGES)


def pool_over(room_tokens):
    tokens = torch.randn(2, 3, room_tokens, 2, 2, 8, generator=torch.Generator().manual_seed(0))
    return PagePool(GRID, tokens, page_tokens=PAGE_TOKENS, num_slots=20, device="cpu")


def pages_of_host(pool, pages):
    return torch.stack([pool.host_pages[divmod(page, PAGES)] for page in pages])


@pytest.mark.parametrize("room_tokens", [20, 28, 27], ids=["all of it", "whole pages more", "a part of a page more"])
@pytest.mark.parametrize("pages", [[0, 1, 2], [3, 4, 5, 6], [0, 2, 4, 9, 10, 29], [7], []])
def test_pages_arrive_in_their_slots_whatever_runs_they_form(room_tokens, pages):
    pool = pool_over(room_tokens)
    pool.take(np.array([0, 1]))
    pool.release(np.array([0, 1]), np.zeros(2, dtype=bool))  # slots 0 and 1 come last now
    wanted = np.array(pages, dtype=np.int64)
    pool.place(wanted)
    slots = pool.slot_of[wanted]
    assert torch.equal(pool.slots[slots], pages_of_host(pool, pages) if pages else pool.slots[:0])
    pool.check(wanted, slots)


@pytest.mark.parametrize("room_tokens", [20, 28, 27])
@pytest.mark.parametrize("pages", [[29, 4, 5, 0, 17], [14, 10, 13]], ids=["many layers", "one layer"])
def test_pages_are_gathered_in_the_order_asked_for(room_tokens, pages):
    pool = pool_over(room_tokens)
    pages = np.array(pages)
    into = torch.empty(len(pages), PAGE_TOKENS, 2, 2, 8)
    pool.gather(pages, into)
    assert torch.equal(into, pages_of_host(pool, pages.tolist()))
