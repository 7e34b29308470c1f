"""Compiled policies for whole steps: what `kvsim.policies.paged` decides with these parts, in one call.

`rules` says which parts; an evictor or a prefetcher joins by a number here and a branch in `decide`. Lists of pages are
linked through arrays: row `NEWER` of a page is the page after it, the row behind it the page before; behind the last
page id stand sentinels, whose next page is the oldest and whose page before is the newest. The evictor has a list a
pool, the prefetcher one for each layer of each sequence.
"""

from __future__ import annotations

import numba

from kvsim.kernels.layout import (
    EVICTABLE,
    FREE_AFTER,
    LAYER,
    NUM_LAYERS,
    NUM_SEQUENCES,
    PAGES_PER_LAYER,
    PREFETCHABLE,
    QUOTA,
    STEP,
)

# rules
POLICY, PREFETCHER, WINDOW_STEPS = range(3)
NUM_RULES = 3
NO_POLICY, KEEP_ALL, LRU = range(3)
NO_PREFETCH, NEXT_STEP = range(2)
# links: the evictor's list and the other way round, the list of a layer by last reading likewise, and the step of that
NEWER, OLDER, READ_AFTER, READ_BEFORE, READ_AT = range(5)
NUM_LINK_ROWS = 5


@numba.njit(cache=True)
def link_newest(links, newer, page, sentinel):
    """Put a page at the new end of a list, wherever it stood."""
    after = links[newer, page]
    if after >= 0:
        before = links[newer + 1, page]
        links[newer + 1, after] = before
        links[newer, before] = after
    newest = links[newer + 1, sentinel]
    links[newer, newest] = page
    links[newer + 1, page] = newest
    links[newer, page] = sentinel
    links[newer + 1, sentinel] = page


@numba.njit(cache=True)
def arrived(counts, free, rules, links, page):
    """Let a compiled policy learn that a page got a slot without being read."""
    if rules[POLICY] == LRU:
        pool = 0 if free.size == 1 else (page // counts[PAGES_PER_LAYER]) % counts[NUM_LAYERS]
        link_newest(links, NEWER, page, links.shape[1] - free.size + pool)


@numba.njit(cache=True)
def decide(counts, flags, free, rules, links, selected, victims, prefetches):
    """Write the plan of one step and layer into `victims` and `prefetches` and return their sizes."""
    if rules[POLICY] == KEEP_ALL:
        return 0, 0
    sentinel = links.shape[1] - free.size + (0 if free.size == 1 else counts[LAYER])
    for page in selected:
        link_newest(links, NEWER, page, sentinel)
    num_wanted = 0
    if rules[PREFETCHER] == NEXT_STEP:
        num_wanted = _next_step(counts, flags, rules, links, selected, prefetches)
    free_slots = counts[FREE_AFTER]
    num_victims = _oldest(flags, links, sentinel, max(0, num_wanted - free_slots), victims)
    num_prefetches = max(0, min(num_wanted, free_slots + num_victims))
    for place in range(num_prefetches):
        link_newest(links, NEWER, prefetches[place], sentinel)
    return num_victims, num_prefetches


@numba.njit(cache=True)
def _oldest(flags, links, sentinel, count, victims):
    """Write up to `count` of the oldest pages that may leave; return how many."""
    found, page = 0, links[NEWER, sentinel]
    while found < count and page != sentinel:
        after, before = links[NEWER, page], links[OLDER, page]
        if flags[EVICTABLE, page]:
            links[OLDER, after] = before
            links[NEWER, before] = after
            links[NEWER, page] = -1
            victims[found] = page
            found += 1
        page = after
    return found


@numba.njit(cache=True)
def _next_step(counts, flags, rules, links, selected, wanted):
    """Write what the layer read within the window and is not there, latest first; return how many.

    Pages read in one step are linked from the last id to the first, so that from the new end on ids ascend.
    """
    num_layers, layer = counts[NUM_LAYERS], counts[LAYER]
    size = num_layers * counts[PAGES_PER_LAYER]
    first_sentinel = size * counts[NUM_SEQUENCES] + layer
    for place in range(selected.size - 1, -1, -1):
        page = selected[place]
        link_newest(links, READ_AFTER, page, first_sentinel + page // size * num_layers)
        links[READ_AT, page] = counts[STEP]
    for sequence in range(counts[NUM_SEQUENCES]):
        sentinel = first_sentinel + sequence * num_layers
        links[READ_AT, sentinel] = links[READ_BEFORE, sentinel]  # how far the search has come
    num_wanted = 0
    while num_wanted < counts[QUOTA]:
        best, best_at = -1, counts[STEP] - rules[WINDOW_STEPS]
        for sequence in range(counts[NUM_SEQUENCES]):
            sentinel = first_sentinel + sequence * num_layers
            page = links[READ_AT, sentinel]
            while page != sentinel and links[READ_AT, page] > best_at and not flags[PREFETCHABLE, page]:
                page = links[READ_BEFORE, page]
            links[READ_AT, sentinel] = page
            if page != sentinel and links[READ_AT, page] > best_at:
                best, best_at = sentinel, links[READ_AT, page]
        if best < 0:
            break
        page = links[READ_AT, best]
        wanted[num_wanted] = page
        num_wanted += 1
        links[READ_AT, best] = links[READ_BEFORE, page]
    return num_wanted
