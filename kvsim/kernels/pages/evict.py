"""Compiled evictors: who leaves, over arrays; each is the twin of a class of `kvsim.policies` that says what it means.

LRU and FIFO, which the step kernel shares, stand in `kvsim.kernels.pages.lists`.

Queues are linked through one integer array, `links`, with a column a page and behind the pages a column a list, the
last list first (`sentinel`). Row `YOUNGER` of a list's column is its oldest page, `OLDER` its youngest, `MARK` its
length; `PLACE` of a page is its list or `NOWHERE`, of a list the page that a hand stands at. Lists of one pool lie
side by side. Pages of ``[num_page_ids]`` arrays that lie in one pool: ``layers[0]`` layers a sequence, see `least`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit

Ints: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]

YOUNGER, OLDER, PLACE, MARK = range(4)
NUM_ROWS = 4
NOWHERE = -1

ARC_LISTS, S3_LISTS = 4, 3
ONCE, AGAIN, ONCE_GHOSTS, AGAIN_GHOSTS = range(ARC_LISTS)
SMALL, MAIN, GHOSTS = range(S3_LISTS)
MAX_COUNT, MOVES_AT = 3, 2
UNREAD = 2
"""Mark of a page that came without being read: of SIEVE, whose other marks are 0 and 1, and of ARC."""


def empty_links(num_pages: int, num_lists: int) -> Ints:
    """Return the links of `num_lists` empty lists."""
    links = np.full((NUM_ROWS, num_pages + num_lists), NOWHERE, dtype=np.int64)
    sentinels = np.arange(num_pages, num_pages + num_lists)
    links[YOUNGER, sentinels] = links[OLDER, sentinels] = sentinels
    links[MARK] = 0
    return links


@njit
def sentinel(links: Ints, queue: int) -> Any:
    """Return the column of a list."""
    return links.shape[1] - 1 - queue


@njit
def append(links: Ints, queue: int, page: int, mark: int) -> None:
    """Put a page at the young end of a list."""
    end = sentinel(links, queue)
    youngest = links[OLDER, end]
    links[YOUNGER, youngest] = page
    links[OLDER, page] = youngest
    links[YOUNGER, page] = end
    links[OLDER, end] = page
    links[PLACE, page] = queue
    links[MARK, page] = mark
    links[MARK, end] += 1


@njit
def unlink(links: Ints, page: int) -> None:
    """Take a page out of its list."""
    younger, older = links[YOUNGER, page], links[OLDER, page]
    links[OLDER, younger] = older
    links[YOUNGER, older] = younger
    links[MARK, sentinel(links, links[PLACE, page])] -= 1
    links[PLACE, page] = NOWHERE


@njit
def may_leave(page: int, evictable: Mask, spared: Mask) -> bool:
    """Return whether a page may leave and is not spared; an empty `spared` spares none."""
    return evictable[page] and (spared.size == 0 or not spared[page])


@njit
def pool_of(page: int, pages_per_layer: int, num_pools: int) -> int:
    """Return the pool of a page."""
    return (page // pages_per_layer) % num_pools


@njit
def sieve_arrived(links: Ints, pages: Ints, pages_per_layer: int, num_pools: int) -> None:
    """SIEVE: queue arrivals, not read yet."""
    for page in pages:
        append(links, pool_of(page, pages_per_layer, num_pools), page, UNREAD)


@njit
def sieve_touch(links: Ints, pool: int, selected: Ints) -> None:
    """SIEVE: queue the misses, and mark what is read again."""
    for page in selected:
        if links[PLACE, page] == NOWHERE:
            append(links, pool, page, 0)
        else:
            links[MARK, page] = 0 if links[MARK, page] == UNREAD else 1


@njit
def _sieve_remove(links: Ints, pool: int, page: int) -> None:
    end = sentinel(links, pool)
    if links[PLACE, end] == page:
        younger = links[YOUNGER, page]
        links[PLACE, end] = NOWHERE if younger == end else younger
    unlink(links, page)


@njit
def sieve_left(links: Ints, pages: Ints) -> None:
    """SIEVE: take pages out of the queue, and the hand off them."""
    for page in pages:
        if links[PLACE, page] != NOWHERE:
            _sieve_remove(links, links[PLACE, page], page)


@njit
def sieve_victims(links: Ints, pool: int, count: int, evictable: Mask, spared: Mask) -> Ints:
    """SIEVE: let go what the hand takes."""
    victims = np.empty(count, dtype=np.int64)
    num_victims = 0
    end = sentinel(links, pool)
    passed = 0
    while num_victims < count and passed < 2 * links[MARK, end]:
        page = links[PLACE, end]
        if page == NOWHERE:
            page = links[YOUNGER, end]
        links[PLACE, end] = page
        if may_leave(page, evictable, spared):
            if links[MARK, page] != 1:
                _sieve_remove(links, pool, page)
                victims[num_victims] = page
                num_victims += 1
                passed = 0
                continue
            links[MARK, page] = 0
        younger = links[YOUNGER, page]
        links[PLACE, end] = NOWHERE if younger == end else younger
        passed += 1
    return victims[:num_victims]


@njit
def arc_arrived(links: Ints, pages: Ints, pages_per_layer: int, num_pools: int) -> None:
    """ARC: put arrivals at the young end of T1, not read yet."""
    for page in pages:
        if links[PLACE, page] != NOWHERE:
            unlink(links, page)
        append(links, ARC_LISTS * pool_of(page, pages_per_layer, num_pools) + ONCE, page, UNREAD)


@njit
def arc_touch(links: Ints, targets: Floats, pool: int, capacity: int, selected: Ints) -> None:
    """ARC: move what is read to where a reading brings it; `targets` are the lengths that T1 should have, by pool."""
    first = ARC_LISTS * pool
    for page in selected:
        place = links[PLACE, page]
        if place == NOWHERE:
            append(links, first + ONCE, page, 0)
            continue
        once_ghosts = links[MARK, sentinel(links, first + ONCE_GHOSTS)]
        again_ghosts = links[MARK, sentinel(links, first + AGAIN_GHOSTS)]
        to = first + AGAIN
        if place == first + ONCE and links[MARK, page] == UNREAD:
            to = first + ONCE
        elif place == first + ONCE_GHOSTS:
            targets[pool] = min(targets[pool] + max(again_ghosts / once_ghosts, 1.0), float(capacity))
        elif place == first + AGAIN_GHOSTS:
            targets[pool] = max(targets[pool] - max(once_ghosts / again_ghosts, 1.0), 0.0)
        unlink(links, page)
        append(links, to, page, 0)
    _arc_cut(links, first, capacity)


@njit
def _arc_cut(links: Ints, first: int, capacity: int) -> None:
    once, again = sentinel(links, first + ONCE), sentinel(links, first + AGAIN)
    once_ghosts, again_ghosts = sentinel(links, first + ONCE_GHOSTS), sentinel(links, first + AGAIN_GHOSTS)
    while links[MARK, once_ghosts] > 0 and links[MARK, once] + links[MARK, once_ghosts] > capacity:
        unlink(links, links[YOUNGER, once_ghosts])
    live = links[MARK, once] + links[MARK, again] + links[MARK, once_ghosts]
    while links[MARK, again_ghosts] > 0 and live + links[MARK, again_ghosts] > 2 * capacity:
        unlink(links, links[YOUNGER, again_ghosts])


@njit
def _oldest(links: Ints, queue: int, evictable: Mask, spared: Mask) -> Any:
    """Return the oldest page of a list that may leave, or `NOWHERE`."""
    end = sentinel(links, queue)
    page = links[YOUNGER, end]
    while page != end:
        if may_leave(page, evictable, spared):
            return page
        page = links[YOUNGER, page]
    return NOWHERE


@njit
def arc_victims(
    links: Ints, targets: Floats, pool: int, capacity: int, count: int, evictable: Mask, spared: Mask
) -> Ints:
    """ARC: let the oldest pages of the list go that is longer than its target."""
    victims = np.empty(count, dtype=np.int64)
    num_victims = 0
    first = ARC_LISTS * pool
    while num_victims < count:
        gives = ONCE if links[MARK, sentinel(links, first + ONCE)] > targets[pool] else AGAIN
        page = _oldest(links, first + gives, evictable, spared)
        if page == NOWHERE:
            gives = AGAIN if gives == ONCE else ONCE
            page = _oldest(links, first + gives, evictable, spared)
        if page == NOWHERE:
            break
        unlink(links, page)
        append(links, first + (ONCE_GHOSTS if gives == ONCE else AGAIN_GHOSTS), page, 0)
        victims[num_victims] = page
        num_victims += 1
    _arc_cut(links, first, capacity)
    return victims[:num_victims]


@njit
def live_left(links: Ints, pages: Ints, num_lists: int, num_live: int) -> None:
    """ARC and S3-FIFO: forget pages; ghosts, which are in the lists from `num_live` on, stay."""
    for page in pages:
        place = links[PLACE, page]
        if place != NOWHERE and place % num_lists < num_live:
            unlink(links, page)


@njit
def s3_arrived(links: Ints, pages: Ints, pages_per_layer: int, num_pools: int) -> None:
    """S3-FIFO: put arrivals in the small queue, not read yet."""
    for page in pages:
        if links[PLACE, page] != NOWHERE:
            unlink(links, page)
        append(links, S3_LISTS * pool_of(page, pages_per_layer, num_pools) + SMALL, page, -1)


@njit
def s3_touch(links: Ints, pool: int, selected: Ints) -> None:
    """S3-FIFO: count readings, and queue the misses."""
    first = S3_LISTS * pool
    for page in selected:
        place = links[PLACE, page]
        if place == NOWHERE:
            append(links, first + SMALL, page, 0)
        elif place == first + GHOSTS:
            unlink(links, page)
            append(links, first + MAIN, page, 0)
        else:
            links[MARK, page] = min(links[MARK, page] + 1, MAX_COUNT)


@njit
def _s3_small(links: Ints, first: int, max_ghosts: int, evictable: Mask, spared: Mask) -> Any:
    end = sentinel(links, first + SMALL)
    page = links[YOUNGER, end]
    while page != end:
        younger = links[YOUNGER, page]
        if may_leave(page, evictable, spared):
            count = links[MARK, page]
            unlink(links, page)
            if count < MOVES_AT:
                append(links, first + GHOSTS, page, 0)
                ghosts = sentinel(links, first + GHOSTS)
                while links[MARK, ghosts] > max_ghosts:
                    unlink(links, links[YOUNGER, ghosts])
                return page
            append(links, first + MAIN, page, 0)
        page = younger
    return NOWHERE


@njit
def _s3_main(links: Ints, first: int, evictable: Mask, spared: Mask) -> Any:
    end = sentinel(links, first + MAIN)
    page = links[YOUNGER, end]
    while page != end:
        if may_leave(page, evictable, spared):
            count = links[MARK, page]
            younger = links[YOUNGER, page]
            unlink(links, page)
            if count <= 0:
                return page
            append(links, first + MAIN, page, count - 1)
            page = page if younger == end else younger
        else:
            page = links[YOUNGER, page]
    return NOWHERE


@njit
def s3_victims(
    links: Ints, pool: int, small_pages: int, max_ghosts: int, count: int, evictable: Mask, spared: Mask
) -> Ints:
    """S3-FIFO: let go what the queues give."""
    victims = np.empty(count, dtype=np.int64)
    num_victims = 0
    first = S3_LISTS * pool
    while num_victims < count:
        page = NOWHERE
        if links[MARK, sentinel(links, first + SMALL)] < small_pages:
            page = _s3_main(links, first, evictable, spared)
        if page == NOWHERE:
            page = _s3_small(links, first, max_ghosts, evictable, spared)
        if page == NOWHERE:
            page = _s3_main(links, first, evictable, spared)
        if page == NOWHERE:
            break
        victims[num_victims] = page
        num_victims += 1
    return victims[:num_victims]
