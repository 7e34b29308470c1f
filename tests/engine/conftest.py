"""What the tests of the engine share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def one_thread():
    """Compute on one thread: sums do not depend on how work is divided."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
