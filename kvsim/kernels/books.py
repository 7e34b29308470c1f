"""The books of a compiled run: `kvsim.policies.residency` and the counts and the digest of `kvsim.sim.ledger`."""

from __future__ import annotations

import numba
import numpy as np

from kvsim.kernels.layout import (
    ATTENDS_ALL,
    DIGEST,
    EVICTABLE,
    EVICTED,
    FREE_AFTER,
    HITS,
    LAYER,
    MARK,
    MISSES,
    NUM_LAYERS,
    NUM_MISSES,
    NUM_SEQUENCES,
    PAGE_BYTES,
    PAGES_PER_LAYER,
    PINNED_FIRST,
    PINNED_LAST,
    PREFETCHABLE,
    PREFETCHED,
    QUOTA,
    RESIDENT,
    ROW,
    SELECTED,
    TO_DEVICE_BYTES,
    UNREAD,
    USED,
    WASTED,
)


def _crc_tables():
    """Return what each of the four low bytes of a page id does to a CRC-32 eight bytes later, ``[4, 256]``."""
    table = np.zeros(256, dtype=np.uint32)
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
        table[byte] = value
    tables = [table]
    for _ in range(7):
        tables.append((tables[-1] >> 8) ^ table[tables[-1] & 0xFF])
    return np.array(tables[7:3:-1], dtype=np.uint32)


_CRC = _crc_tables()


@numba.njit(cache=True)
def digest_of(pages, count, digest):
    """Return the CRC-32 of page ids, eight bytes each, going on from `digest`: ``zlib.crc32``.

    A page id fits four bytes, so the high four are 0 and change nothing but the place of the low ones (slicing by
    eight: Kounavis and Berry, "A systematic approach to building high performance software-based CRC generators").
    """
    crc = np.uint32(digest) ^ np.uint32(0xFFFFFFFF)
    for place in range(count):
        word = np.uint32(pages[place]) ^ crc
        crc = _CRC[0, word & 0xFF] ^ _CRC[1, (word >> 8) & 0xFF] ^ _CRC[2, (word >> 16) & 0xFF] ^ _CRC[3, word >> 24]
    return np.int64(crc ^ np.uint32(0xFFFFFFFF))


@numba.njit(cache=True)
def open_pages(counts, flags, num_pages, free, opened):
    """Let sequences that grew by a page open it in this layer; return how many.

    `opened` says how many pages each sequence has now, and then the ids of the opened pages.
    """
    layer = counts[LAYER]
    count = 0
    for sequence in range(counts[NUM_SEQUENCES]):
        total = opened[sequence]
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
        flags[EVICTABLE, first : first + min(counts[PINNED_FIRST], total)] = False
        flags[EVICTABLE, first + max(window, 0) : first + total] = False
        flags[PREFETCHABLE, first + total - 1] = False
        opened[count] = first + total - 1
        count += 1
    return count


@numba.njit(cache=True)
def select(counts, flags, free, selected, misses, held):
    """Find the misses and take what is selected out of what a policy may name; `held` keeps what was evictable."""
    num_misses = 0
    for place in range(selected.size):
        page = selected[place]
        held[place] = flags[EVICTABLE, page]
        flags[EVICTABLE, page] = False
        if not flags[RESIDENT, page]:
            flags[PREFETCHABLE, page] = False
            misses[num_misses] = page
            num_misses += 1
    counts[NUM_MISSES] = num_misses
    counts[FREE_AFTER] = free[counts[LAYER] if free.size > 1 else 0] - num_misses


@numba.njit(cache=True)
def is_sound(counts, flags, pages, victims, prefetches):
    """Return whether a plan keeps to the protocol; `victims` ascend. ``Residency.check`` says what is wrong."""
    for page in victims:
        if page < 0 or page >= flags.shape[1]:
            return False
    for page in prefetches:
        if page < 0 or page >= flags.shape[1]:
            return False
    for place in range(victims.size):
        if not flags[EVICTABLE, victims[place]] or (place > 0 and victims[place] == victims[place - 1]):
            return False
    for place in range(prefetches.size):
        if not flags[PREFETCHABLE, prefetches[place]]:
            return False
        pages[MARK, prefetches[place]] = place
    for place in range(prefetches.size):
        if pages[MARK, prefetches[place]] != place:
            return False
    return counts[ATTENDS_ALL] == 1 or prefetches.size <= counts[QUOTA]


@numba.njit(cache=True)
def carry_out(counts, flags, free, selected, misses, held, victims, prefetches):
    """Enter a sound plan in the books; return whether every page has a slot."""
    shares, layer = free.size == 1, counts[LAYER]
    for page in victims:
        flags[RESIDENT, page] = flags[EVICTABLE, page] = False
        flags[PREFETCHABLE, page] = True
        free[0 if shares else (page // counts[PAGES_PER_LAYER]) % counts[NUM_LAYERS]] += 1
    for place in range(selected.size):
        page = selected[place]
        if flags[RESIDENT, page]:
            flags[EVICTABLE, page] = held[place]
        else:
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


@numba.njit(cache=True)
def count(counts, rows, flags, selected, misses, victims, prefetches):
    """Count one decision in the row of its step."""
    row = rows[counts[ROW]]
    row[SELECTED] += selected.size
    row[HITS] += selected.size - misses.size
    row[MISSES] += misses.size
    row[PREFETCHED] += prefetches.size
    row[EVICTED] += victims.size
    row[TO_DEVICE_BYTES] += (misses.size + prefetches.size) * counts[PAGE_BYTES]
    used = wasted = 0
    for page in selected:
        used += flags[UNREAD, page]
        flags[UNREAD, page] = False
    for page in victims:
        wasted += flags[UNREAD, page]
        flags[UNREAD, page] = False
    for page in prefetches:
        flags[UNREAD, page] = True
    row[USED] += used
    row[WASTED] += wasted
    digest = digest_of(selected, selected.size, counts[DIGEST])
    digest = digest_of(misses, misses.size, digest)
    digest = digest_of(victims, victims.size, digest)
    counts[DIGEST] = digest_of(prefetches, prefetches.size, digest)
