"""Where everything stands in the arrays of a compiled run: names for arrays and indices, and nothing else.

`COUNTS` holds whole numbers, `CLOCK` times and rates, `TRANSFERS` and `DONE` the transfers by number, `RING` their
queues, `WORKS` the compute stream's queue. Numbers of transfers and of works only grow; their slot is the number modulo
the ring's capacity, a power of two.
"""

from __future__ import annotations

# arrays (`kvsim.kernels.arrays`); the readings are a block's: the page ids of step s and layer l stand from
# OFFSETS[s * num_layers + l] on, with s counted from the block's first step, CONTEXT[s] are the tokens of each sequence
(
    COUNTS,
    CLOCK,
    RING,
    TRANSFERS,
    DONE,
    WORKS,
    TABLES,
    CARRIED_S,  # times of transfers worked out, [direction, pages]
    TIMES,
    ROWS,
    FLAGS,
    PAGES,
    PLAN,
    PAGES_NOW,  # of each sequence in this step
    NUM_PAGES,  # of each layer of each sequence, [num_sequences, num_layers]
    FREE,
    OPENED,
    WAS_EVICTABLE,  # of what is selected now, in its order
    READINGS,
    OFFSETS,
    CONTEXT,
    RULES,
    LINKS,
    READ_BITS,
    LOST_BITS,
) = range(25)
NUM_ARRAYS = 25

# plan, [3, num_page_ids]: the misses, and what a policy that is no kernel has written
MISSING, LEAVING, COMING = range(3)

# flags, [4, num_page_ids]: the page table of `kvsim.policies.residency`, and pages prefetched and not read since
RESIDENT, EVICTABLE, PREFETCHABLE, UNREAD = range(4)

# pages, [num_page_ids, 4]: the transfer that brings a page or writes it back (-1: none), and a mark to find doubles
CARRIED_BY, WRITTEN_BY, MARK = range(3)

# counts
(
    NUM_LAYERS,
    NUM_SEQUENCES,
    PAGES_PER_LAYER,
    PAGE_TOKENS,
    PINNED_FIRST,
    PINNED_LAST,
    QUOTA,
    CHUNK,
    WINDOW,
    IS_SYNCHRONOUS,
    KEEPS_ORDER,
    READS_ALL,
    WAITS_FOR_SCORES,
    SPECULATES,
    HOLDS_ALL,
    ATTENDS_ALL,
    PAGE_BYTES,
    STEP,
    LAYER,
    PHASE,
    BLOCK_START,
    ROW,
    NEXT_TRANSFER,
    OLDEST_TRANSFER,
    NEXT_AFTER,
    NEXT_WORK,
    UNRESOLVED,
    LAST_ATTENTION,
    NUM_MISSES,
    NUM_OPENED,
    FREE_AFTER,
    DIGEST,
    IS_STUCK,
    ALL_PAGES,  # of all sequences in this step
    UNFILLED_TOKENS,  # of the open pages in this step
    NUM_FILLED,  # sequences that fill a page in this step
    IS_OPENING,  # whether a sequence opens a page in this step
    MOST_PER_STEP,  # transfers of a step
    RUNNING,  # and RUNNING + 1: the transfer that each direction carries, or -1
    _RUNNING_1,
    HEAD,  # of five queues
) = range(41)
SIZE = HEAD + 5
TABLE = SIZE + 5  # offsets of the cost tables
NUM_TABLES = 17
NUM_COUNTS = TABLE + NUM_TABLES

# queues: demand and prefetch to the device, to the host, held back by the host, prefetches it issued
DEMAND, PREFETCH, BACK, HELD, ISSUED = range(5)
# rows of the ring: the five queues, then what transfers wait for
AFTER = 5
NUM_RING_ROWS = 6
# of a transfer, [slots, 4]: its pages, where what it waits for begins in the ring and how much it is, the slots' reader
NUM_IN, AFTER_FIRST, AFTER_COUNT, READER = range(4)
# done, [slots, 2]: when a transfer arrived, and when the reader of its slots ends
ARRIVED_S, READ_S = range(2)

# clock
NOW, STEP_BEGAN_S, FREE_S, SERVED_S, COMPUTE_SLOWDOWN, SYNC_S, SUBMIT_S, SUBMIT_BACK_S = range(8)
LOOK_S, TOTAL_S, SINCE_S, MISSING_S, SEEN_S, WORK_S, SLOWDOWN = range(8, 15)  # of the direction to the device
ENGINE_SIZE = 7  # the same of the other direction stands so much further
MEMO = LOOK_S + 2 * ENGINE_SIZE  # of each segment and the decision: amount, device_s, host_s, tail_s
NUM_CLOCK = MEMO + 4 * 8

# segments, and the decision, in the order of their tables: device tables, then host tables at HOST_TABLE
EMBED, ATTENTION_INPUT, SELECT, ATTENTION, ATTENTION_OUTPUT, HEAD_SEGMENT, SPECULATE, DECIDE = range(8)
HOST_TABLE = 8
TO_DEVICE_TABLE = 15  # and TO_DEVICE_TABLE + 1: to the host

# works: the compute stream's queue
LAUNCH_S, DEVICE_S, HOST_END_S, TAIL_S, SEGMENT, WAITS_FIRST, WAITS_COUNT, END_S, SET_S, FIRE_S = range(10)
NUM_WORK_FIELDS = 10

# rows of whole numbers, in the order of `kvsim.sim.ledger.COUNTS` and `BYTES`, then the digest
(SELECTED, HITS, MISSES, LATE, PREFETCHED, USED, WASTED, EVICTED, TO_DEVICE_BYTES, TO_HOST_BYTES, ROW_DIGEST) = range(
    11
)
NUM_ROW_COUNTS = 11
# rows of times: the six segments, stall, host; decision, synchronisation, submission; the step
ROW_STALL, ROW_HOST, ROW_DECIDE, ROW_SYNC, ROW_SUBMIT, ROW_STEP = range(6, 12)
NUM_ROW_TIMES = 12

# what `kvsim.kernels.step.step.run` returns
WANTS_PLAN, STEPS_DONE, WANTS_ROOM, BAD_PLAN, NO_SLOT, STUCK = range(6)
# phases between two calls
BEGIN_STEP, BEGIN_LAYER, DECIDING = range(3)
