"""What the tests of the engine share."""

from __future__ import annotations

import pytest

from kvsim.types import PageGrid

PAGE_TOKENS = 16


@pytest.fixture(scope="module")
def one_thread():
    """Compute on one thread: sums do not depend on how work is divided."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pool():
    """Return a pool of 12 pages of one layer that are all on the host, with a slot for each."""
    torch = pytest.importorskip("torch")
    page_pool = pytest.importorskip("kvsim.engine.links.page_pool")
    grid = PageGrid(num_sequences=1, num_layers=1, pages_per_layer=12)
    tokens = torch.randn(1, 1, 12 * PAGE_TOKENS, 2, 2, 8)
    pool = page_pool.PagePool(grid, tokens, page_tokens=PAGE_TOKENS, num_slots=12, device="cpu")
    pool.is_on_host[:] = True
    return pool
