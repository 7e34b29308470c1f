"""The arrays of a compiled core and their columns; all hold int64.

==========  ===========================================  ===========================================================
array       shape                                        holds
==========  ===========================================  ===========================================================
`NUMBERS`   ``[NUM_NUMBERS]``                            limits, options and the scalars of the state
`REQUESTS`  ``[num_requests, NUM_REQUEST]``              a line a request
`BLOCKS`    ``[num_blocks + 1, NUM_BLOCK]``              a line a block; the last is the free queue's sentinel
`FIRST`     ``[num_keys]``                               the first block cached under each key, or `NONE`
`KEYS`      ``[total_keys]``                             the keys of all requests, one request after another
`TABLES`    ``[sequences, max_blocks]``                  the blocks of each request that runs
`LISTS`     ``[3, max(num_requests, sequences)]``        `WAITING`, `RUNNING`, `SLOTS` (unused lines of `TABLES`)
`COUNTS`    ``[3, NUM_COUNTS]``                          lengths of the sections of `STEPS`, and the work of each step
`STEPS`     ``[3 * NUM_SECTIONS, width]``                what was decided and what came of it, a line a section
==========  ===========================================  ===========================================================

`COUNTS` and `STEPS` have room for three steps: two in flight, and the next one, which collects events already.
"""

from __future__ import annotations

NONE = -1

(NUMBERS, REQUESTS, BLOCKS, FIRST, KEYS, TABLES, LISTS, COUNTS, STEPS) = range(9)
NUM_ARRAYS = 9

# numbers: the limits of a step
(MAX_TOKENS, MAX_SEQUENCES, MODEL_TOKENS, BLOCK_TOKENS) = range(4)
# numbers: options of the scheduler and of the core; whether evicted and stored keys are written down
(PREFILL_TOKENS, ADAPTIVE, CHUNKED, WATERMARK_BLOCKS, RESERVE, BY_PRIORITY, IS_ASYNC, CACHING, RECORDING) = range(4, 13)
# numbers: state
(NUM_FREE, NUM_RUNNING, NUM_WAITING, WAITING_HEAD, NEXT_STEP, OLDEST_STEP) = range(13, 19)
# numbers: the request that did not fit at the head of the queue, and why (`waiting`)
(BLOCKED_REQUEST, BLOCKED_HITS, BLOCKED_HELD, BLOCKED_KEY) = range(19, 23)
NUM_NUMBERS = 23

# requests: what is known when it arrives, then its state
(PROMPT, LIMIT, STOP, PRIORITY, ARRIVAL, RANK, FIRST_KEY) = range(7)
(TOKENS, COMPUTED, SLOT, HELD, CACHED, PLANNED, PLACEHOLDERS, IN_FLIGHT, STALE, IS_FINISHED, PREEMPTIONS) = range(7, 18)
NUM_REQUEST = 18

# blocks: neighbours in the free queue; requests that hold it; its key and the place in its chain; the blocks after and
# before it under the same key (the first one's `SAME_BEFORE` is the last one)
(AFTER, BEFORE, HOLDERS, KEY, PLACE, SAME_AFTER, SAME_BEFORE) = range(7)
NUM_BLOCK = 7

# lists
(WAITING, RUNNING, SLOTS) = range(3)

# counts: lengths of the sections of a step, then its work
(SCHEDULED, SCHEDULED_TOKENS, SAMPLES, ADMITTED, HIT_TOKENS, PREEMPTED, EVICTED, STORED, SAMPLED, FINISHED) = range(10)
NUM_SECTIONS = 10
(WORK_TOKENS, WORK_SAMPLED, WORK_CONTEXT, WORK_PAIRS, WORK_PREFILL) = range(10, 15)
NUM_COUNTS = 15
