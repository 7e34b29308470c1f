"""Pages in order of age, linked through arrays, against an ordered dictionary."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.kernels.pages import evict, lists

NUM_PAGES = 6


def order_of(links: np.ndarray) -> list[int]:
    pages, page = [], int(links[NUM_PAGES, lists.NEWER])
    while page != NUM_PAGES:
        assert links[int(links[page, lists.OLDER]), lists.NEWER] == page
        pages.append(page)
        page = int(links[page, lists.NEWER])
    return pages


@settings(max_examples=100)
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["read", "arrive", "forget", "take"]), st.sets(st.integers(0, NUM_PAGES - 1))),
        max_size=25,
    )
)
def test_a_list_does_what_an_ordered_dictionary_does(moves: list[tuple[str, set[int]]]) -> None:
    links, order = lists.empty_lists(NUM_PAGES, 1), OrderedDict[int, None]()
    for move, chosen in moves:
        pages = np.array(sorted(chosen), dtype=np.int64)
        if move == "read":
            lists.lru_touch(links, NUM_PAGES, pages)
            for page in sorted(chosen):
                order[page] = None
                order.move_to_end(page)
        elif move == "arrive":
            lists.arrived(links, pages, NUM_PAGES, 1)
            order |= {page: None for page in sorted(chosen) if page not in order}
        elif move == "forget":
            lists.forget(links, pages)
            for page in chosen:
                order.pop(page, None)
        else:
            evictable = np.isin(np.arange(NUM_PAGES), pages)
            victims, spared = np.zeros(NUM_PAGES, dtype=np.int64), np.arange(NUM_PAGES) == 3
            taken = lists.take_oldest(links, NUM_PAGES, 2, evictable, spared, victims)
            expected = [page for page in order if page in chosen and page != 3][:2]
            assert victims[:taken].tolist() == expected
            for page in expected:
                del order[page]
        assert order_of(links) == list(order)


@settings(max_examples=60)
@given(moves=st.lists(st.tuples(st.integers(0, NUM_PAGES - 1), st.integers(0, 3)), max_size=60))
def test_linked_queues_know_where_each_page_is_and_how_long_they_are(moves: list[tuple[int, int]]) -> None:
    links, queues = evict.empty_links(NUM_PAGES, 3), [OrderedDict[int, int]() for _ in range(3)]
    for number, (page, to) in enumerate(moves):
        place = int(links[evict.PLACE, page])
        assert (place == evict.NOWHERE) == all(page not in queue for queue in queues)
        if place != evict.NOWHERE:
            evict.unlink(links, page)
            del queues[place][page]
        if to < 3:
            evict.append(links, to, page, number)
            queues[to][page] = number
        for queue, expected in enumerate(queues):
            end = int(evict.sentinel(links, queue))
            pages, at = [], int(links[evict.YOUNGER, end])
            while at != end:
                pages.append((at, int(links[evict.MARK, at])))
                at = int(links[evict.YOUNGER, at])
            assert pages == list(expected.items())
            assert links[evict.MARK, end] == len(expected)
