"""What the tests of plug-ins share: a run over made-up accesses, a sound evictor, and values of any kind."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kvsim.errors import PolicyError
from kvsim.policies import Setting, View, make_policy
from kvsim.policies.testing.driving import MadeAccesses, digest_of, drive, setting_for

ANYTHING = st.one_of(
    st.none(),
    st.text(),
    st.integers(),
    st.lists(st.integers(-5, 70), max_size=4),
    arrays.arrays(
        st.sampled_from([np.int64, np.uint8, np.float64, np.bool_, np.dtype("U3"), np.dtype(object)]),
        arrays.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4),
    ),
    arrays.arrays(np.int64, st.integers(0, 4), elements=st.integers(-3, 70)),
)


def run(name: str, arguments: dict[str, Any] | None = None, *, partition: str = "shared") -> str:
    """Run a policy over made-up accesses and return a digest of what it decided."""
    accesses = MadeAccesses(
        num_steps=8, num_layers=3, num_sequences=1, pages_per_layer=20, k_pages=6, everything=False, seed=1
    )
    shared = "per_layer" if partition == "per_layer" else "shared"
    setting = setting_for(accesses, capacity_pages=30, partition=shared, quota_pages=4, seed=7)
    return digest_of(drive(make_policy(name, setting, arguments or {}), setting, accesses))


def outcome_of(name: str, arguments: dict[str, Any]) -> str | None:
    """Return the error that a run ends in, None where it ends well; any other exception is a failure."""
    try:
        run(name, arguments)
    except PolicyError as problem:
        return str(problem)
    return None


class Good:
    """An evictor that lets the smallest ids go; what others spoil."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def arrived(self, pages):
        pass

    def touch(self, view):
        pass

    def left(self, pages):
        pass

    def pages(self, view: View, pool: int, spared: Any) -> Any:
        pages = np.flatnonzero(view.evictable if spared is None else view.evictable & ~spared)
        return pages if self.setting.partition == "shared" else pages[self.setting.grid.layer_of(pages) == pool]

    def victims(self, view, pool, count, spared):
        return self.pages(view, pool, spared)[:count]
