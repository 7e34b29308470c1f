"""Pages in order of age, linked through arrays: what LRU and FIFO keep, in the step kernel and decision by decision.

`links`, ``[num_pages + num_lists, 2]``: the page after each page and the page before it, side by side because they are
read together. Behind the pages stands a sentinel a list, whose next page is the oldest and whose page before is the
youngest. A page in no list has `NOWHERE` after it. Places are unsigned: numba then spares the test for a negative one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.arrays import compiled

NEWER, OLDER = range(2)
NOWHERE = np.uint32(2**32 - 1)


def empty_lists(num_pages: int, num_lists: int) -> NDArray[np.uint32]:
    """Return the links of so many empty lists; the last `num_lists` lines are their sentinels."""
    links = np.full((num_pages + num_lists, 2), NOWHERE, dtype=np.uint32)
    links[num_pages:] = np.arange(num_pages, num_pages + num_lists)[:, None]
    return links


@compiled
def append(links, page, sentinel):
    """Put a page that is in no list at the young end of one."""
    youngest = links[sentinel, OLDER]
    links[youngest, NEWER] = page
    links[page, OLDER] = youngest
    links[page, NEWER] = sentinel
    links[sentinel, OLDER] = page


@compiled
def unlink(links, page):
    """Take a page out of its list."""
    newer, older = links[page, NEWER], links[page, OLDER]
    links[newer, OLDER] = older
    links[older, NEWER] = newer
    links[page, NEWER] = NOWHERE


@compiled
def move_to_end(links, page, sentinel):
    """Put a page at the young end of a list, wherever it stood."""
    page, sentinel = np.uint64(page), np.uint64(sentinel)
    newer = links[page, NEWER]
    if newer != NOWHERE:
        older = links[page, OLDER]
        links[newer, OLDER] = older
        links[older, NEWER] = newer
    append(links, page, sentinel)


@compiled
def take_oldest(links, sentinel, count, evictable, spared, victims):
    """Take out up to `count` of the oldest pages that may leave, write them and return how many.

    An empty `spared` spares none.
    """
    num_victims, page = 0, links[sentinel, NEWER]
    while num_victims < count and page != sentinel:
        newer = links[page, NEWER]
        if evictable[page] and (spared.size == 0 or not spared[page]):
            unlink(links, page)
            victims[num_victims] = page
            num_victims += 1
        page = newer
    return num_victims


@compiled
def arrived(links, pages, pages_per_layer, num_pools):
    """LRU and FIFO: put arrivals at the young end of their pools' lists."""
    first = links.shape[0] - num_pools
    for page in pages:
        if links[page, NEWER] == NOWHERE:
            append(links, page, first + (page // pages_per_layer) % num_pools)


@compiled
def lru_touch(links, sentinel, selected):
    """LRU: move what is read to the young end."""
    for page in selected:
        move_to_end(links, page, sentinel)


@compiled
def fifo_touch(links, sentinel, misses):
    """FIFO: queue the misses."""
    for page in misses:
        if links[page, NEWER] == NOWHERE:
            append(links, page, sentinel)


@compiled
def forget(links, pages):
    """Take pages out of their lists."""
    for page in pages:
        if links[page, NEWER] != NOWHERE:
            unlink(links, page)
