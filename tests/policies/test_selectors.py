"""Selections against a plain-Python choice, ties and the budget bound included."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kvsim.kernels.pages.top_k import top_k
from kvsim.policies.selectors import Full, Threshold, TopK, middle_of

SCORES = hnp.arrays(np.float16, st.integers(1, 40), elements=st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0]))
SMALL = st.integers(0, 5)


@given(scores=SCORES, k_pages=st.integers(1, 10), sinks=SMALL, recent=SMALL)
def test_top_k_takes_the_best_with_ties_to_the_smallest_index(
    scores: np.ndarray, k_pages: int, sinks: int, recent: int
) -> None:
    total = scores.size
    fixed = set(range(min(sinks, total))) | set(range(max(min(sinks, total), total - 1 - recent), total))
    rest = sorted(set(range(total)) - fixed, key=lambda page: (-float(scores[page]), page))
    selector = TopK(k_pages=k_pages, sink_pages=sinks, recent_pages=recent)
    chosen = selector.select(scores, total)
    assert chosen.tolist() == sorted(fixed | set(rest[:k_pages]))
    assert chosen.size <= selector.max_pages(total)


@given(scores=SCORES, threshold=st.floats(0.05, 1.0), sinks=SMALL, recent=SMALL)
def test_threshold_reaches_its_share_with_no_page_to_spare(
    scores: np.ndarray, threshold: float, sinks: int, recent: int
) -> None:
    total = scores.size
    selector = Threshold(threshold=threshold, max_k_pages=total, sink_pages=sinks, recent_pages=recent)
    chosen = selector.select(scores, total)
    row = scores.astype(np.float64)
    assert row[chosen].sum() >= threshold * row.sum() * (1 - 1e-9)
    fixed = set(range(min(sinks, total))) | set(range(max(min(sinks, total), total - 1 - recent), total))
    free = [page for page in chosen.tolist() if page not in fixed]
    if free:
        weakest = min(row[page] for page in free)
        assert row[chosen].sum() - weakest < threshold * row.sum()


def test_threshold_never_takes_more_than_its_bound() -> None:
    selector = Threshold(threshold=1.0, max_k_pages=3, sink_pages=1, recent_pages=1)
    assert selector.select(np.ones(20), 20).size == 6 == selector.max_pages(20)


def test_full_reads_every_page() -> None:
    assert Full().select(np.zeros(5), 4).tolist() == [0, 1, 2, 3]
    assert Full().max_pages(7) == 7


@given(
    scores=SCORES | hnp.arrays(np.float16, st.integers(1, 40), elements=st.floats(0, 1, width=16)),
    k_pages=st.integers(0, 45),
    sinks=SMALL,
    recent=SMALL,
)
def test_the_compiled_choice_of_the_engine_is_that_of_top_k(
    scores: np.ndarray, k_pages: int, sinks: int, recent: int
) -> None:
    scores = np.abs(scores)  # -0.0 is no score
    selector = TopK(k_pages=k_pages, sink_pages=sinks, recent_pages=recent)
    first, last = middle_of(scores.size, sinks, recent)
    chosen = top_k(scores.view(np.uint16), first, last, k_pages, scores.size)
    np.testing.assert_array_equal(chosen, selector.select(scores, scores.size))
