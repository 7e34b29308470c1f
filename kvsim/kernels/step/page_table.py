"""The page table of a compiled run, as in `kvsim.policies.residency`; counts and digest as in `kvsim.sim.ledger`."""

from __future__ import annotations

import numpy as np

from kvsim.kernels.arrays import compiled, int_rows, ints, masks
from kvsim.kernels.step.layout import (
    ATTENDS_ALL,
    COUNTS,
    DIGEST,
    EVICTABLE,
    EVICTED,
    FLAGS,
    FREE,
    FREE_AFTER,
    LAYER,
    MARK,
    MISSES,
    MISSING,
    NUM_LAYERS,
    NUM_MISSES,
    NUM_OPENED,
    NUM_PAGES,
    NUM_SEQUENCES,
    OPENED,
    PAGES,
    PAGES_NOW,
    PAGES_PER_LAYER,
    PINNED_FIRST,
    PINNED_LAST,
    PLAN,
    PREFETCHABLE,
    PREFETCHED,
    QUOTA,
    RESIDENT,
    ROW,
    ROWS,
    SELECTED,
    UNREAD,
    USED,
    WAS_EVICTABLE,
    WASTED,
)


def _crc_tables():
    """Return what each of the four low bytes of a page id does to a CRC-32 eight and sixteen bytes on, ``[8, 256]``."""
    table = np.zeros(256, dtype=np.uint32)
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
        table[byte] = value
    tables = [table]
    for _ in range(15):
        tables.append((tables[-1] >> 8) ^ table[tables[-1] & 0xFF])
    return np.array([*tables[7:3:-1], *tables[15:11:-1]], dtype=np.uint32)


_CRC = _crc_tables()
_LOW_BYTE = np.uint32(0xFF)


@compiled
def _on(word, first):
    """Return what a word comes to eight bytes on (`first` 0) or sixteen (`first` 4)."""
    low = _CRC[first, word & _LOW_BYTE] ^ _CRC[first + 1, (word >> np.uint32(8)) & _LOW_BYTE]
    return low ^ _CRC[first + 2, (word >> np.uint32(16)) & _LOW_BYTE] ^ _CRC[first + 3, word >> np.uint32(24)]


@compiled
def digest_of(pages, digest):
    """Return the CRC-32 of page ids, eight bytes each, going on from `digest`: ``zlib.crc32``.

    A page id fits four bytes, so the high four are 0 and change nothing but the place of the low ones (slicing by
    eight: Kounavis and Berry, "A systematic approach to building high performance software-based CRC generators"). Of
    two pages the second waits for nothing: a CRC is linear.
    """
    crc = np.uint32(digest) ^ np.uint32(0xFFFFFFFF)
    for place in range(1, pages.size, 2):
        crc = _on(np.uint32(pages[place - 1]) ^ crc, 4) ^ _on(np.uint32(pages[place]), 0)
    if pages.size & 1:
        crc = _on(np.uint32(pages[pages.size - 1]) ^ crc, 0)
    return np.int64(crc ^ np.uint32(0xFFFFFFFF))


@compiled
def open_pages(run):
    """Let sequences that grew by a page open it in this layer; write the pages and their number."""
    counts, flags, num_pages = ints(run, COUNTS), masks(run, FLAGS), int_rows(run, NUM_PAGES)
    free, opened, now = ints(run, FREE), ints(run, OPENED), ints(run, PAGES_NOW)
    layer, count = counts[LAYER], 0
    for sequence in range(counts[NUM_SEQUENCES]):
        total = now[sequence]
        if total <= num_pages[sequence, layer]:
            continue
        num_pages[sequence, layer] = total
        first = (sequence * counts[NUM_LAYERS] + layer) * counts[PAGES_PER_LAYER]
        flags[RESIDENT, first + total - 1] = True
        free[layer if free.size > 1 else 0] -= 1
        window = total - 1 - counts[PINNED_LAST]
        low = max(window - 1, counts[PINNED_FIRST])
        if low < window:
            flags[EVICTABLE, first + low] = flags[RESIDENT, first + low]
        for page in range(first, first + min(counts[PINNED_FIRST], total)):
            flags[EVICTABLE, page] = False
        for page in range(first + max(window, 0), first + total):
            flags[EVICTABLE, page] = False
        flags[PREFETCHABLE, first + total - 1] = False
        opened[count] = first + total - 1
        count += 1
    counts[NUM_OPENED] = count


@compiled
def end_sequence(run, sequence):
    """Let no policy prefetch pages of a sequence that has ended."""
    counts, flags = ints(run, COUNTS), masks(run, FLAGS)
    sequence_pages = counts[NUM_LAYERS] * counts[PAGES_PER_LAYER]
    for page in range(sequence * sequence_pages, (sequence + 1) * sequence_pages):
        flags[PREFETCHABLE, page] = False


@compiled
def select(run, selected):
    """Find the misses and take what is selected out of what a policy may name, but keep what was evictable."""
    counts, flags, free, rows = ints(run, COUNTS), masks(run, FLAGS), ints(run, FREE), int_rows(run, ROWS)
    misses, was_evictable = int_rows(run, PLAN)[MISSING], masks(run, WAS_EVICTABLE)[0]
    num_misses = used = 0
    for place in range(np.uint64(selected.size)):
        page = np.uint64(selected[place])
        used += flags[UNREAD, page]
        flags[UNREAD, page] = False
        was_evictable[place] = flags[EVICTABLE, page]
        flags[EVICTABLE, page] = False
        if not flags[RESIDENT, page]:
            flags[PREFETCHABLE, page] = False
            misses[num_misses] = selected[place]
            num_misses += 1
    row = rows[counts[ROW]]
    row[SELECTED] += selected.size
    row[MISSES] += num_misses
    row[USED] += used
    counts[DIGEST] = digest_of(selected, counts[DIGEST])
    counts[NUM_MISSES] = num_misses
    counts[FREE_AFTER] = free[counts[LAYER] if free.size > 1 else 0] - num_misses


@compiled
def is_sound(run, victims, prefetches):
    """Return whether a plan keeps to the protocol; `victims` ascend. ``Residency.check`` says what is wrong."""
    counts, flags, pages = ints(run, COUNTS), masks(run, FLAGS), int_rows(run, PAGES)
    for place in range(victims.size):
        page = victims[place]
        if page < 0 or page >= flags.shape[1] or not flags[EVICTABLE, page]:
            return False
        if place > 0 and page == victims[place - 1]:
            return False
    for place in range(prefetches.size):
        page = prefetches[place]
        if page < 0 or page >= flags.shape[1] or not flags[PREFETCHABLE, page]:
            return False
        pages[page, MARK] = place
    for place in range(prefetches.size):
        if pages[prefetches[place], MARK] != place:
            return False
    return counts[ATTENDS_ALL] == 1 or prefetches.size <= counts[QUOTA]


@compiled
def carry_out(run, selected, misses, victims, prefetches):
    """Enter a sound plan in the page table; return whether every page has a slot."""
    counts, flags, free = ints(run, COUNTS), masks(run, FLAGS), ints(run, FREE)
    was_evictable, now = masks(run, WAS_EVICTABLE)[0], ints(run, PAGES_NOW)
    shares, layer = free.size == 1, counts[LAYER]
    sequence_pages = counts[NUM_LAYERS] * counts[PAGES_PER_LAYER]
    for victim in victims:
        page = np.uint64(victim)
        flags[RESIDENT, page] = flags[EVICTABLE, page] = False
        flags[PREFETCHABLE, page] = now[victim // sequence_pages] > 0
        free[0 if shares else (victim // counts[PAGES_PER_LAYER]) % counts[NUM_LAYERS]] += 1
    for place in range(np.uint64(selected.size)):
        flags[EVICTABLE, np.uint64(selected[place])] = was_evictable[place]
    for page in misses:
        flags[RESIDENT, page] = flags[EVICTABLE, page] = True
    free[0 if shares else layer] -= misses.size
    for page in prefetches:
        flags[RESIDENT, page] = flags[EVICTABLE, page] = True
        flags[PREFETCHABLE, page] = False
        free[0 if shares else (page // counts[PAGES_PER_LAYER]) % counts[NUM_LAYERS]] -= 1
    for pool in range(free.size):  # noqa: SIM110 (a generator costs numba seconds to compile)
        if free[pool] < 0:
            return False
    return True


@compiled
def count(run, misses, victims, prefetches):
    """Count what one decision did in the row of its step."""
    counts, flags, rows = ints(run, COUNTS), masks(run, FLAGS), int_rows(run, ROWS)
    row = rows[counts[ROW]]
    row[PREFETCHED] += prefetches.size
    row[EVICTED] += victims.size
    for page in victims:
        row[WASTED] += flags[UNREAD, page]
        flags[UNREAD, page] = False
    for page in prefetches:
        flags[UNREAD, page] = True
    digest = digest_of(misses, counts[DIGEST])
    digest = digest_of(victims, digest)
    counts[DIGEST] = digest_of(prefetches, digest)
