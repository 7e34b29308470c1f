"""Writes down what becomes of requests: when each leaves the queue and what it hits, its preemptions and its tokens.

A histogram holds the gaps between tokens. It has bins of one width in the logarithm, so that its size does not depend
on how long a run is.
"""

from __future__ import annotations

import math

from kvsim.kernels.arrays import compiled, float_rows, floats, int_rows, ints

(REQUESTS, COUNTS, GAPS, SCALE) = range(4)
NUM_ARRAYS = 4

# columns of `REQUESTS`, a line a request: NaN for what has not happened
(SCHEDULED_S, FIRST_S, LAST_S, LONGEST_GAP_S) = range(4)
NUM_COLUMNS = 4

# columns of `COUNTS`, a line a request
(HIT_TOKENS, PREEMPTIONS) = range(2)
NUM_COUNTS = 2

# `SCALE`: the lower edge of bin 0, and how wide bins are in the natural logarithm
(LEAST_S, WIDTH) = range(2)


@compiled
def admitted(record, request, hit_tokens, now_s):
    """Write down that a request left the queue, if it is the first time."""
    line = float_rows(record, REQUESTS)[request]
    if math.isnan(line[SCHEDULED_S]):
        line[SCHEDULED_S] = now_s
        int_rows(record, COUNTS)[request, HIT_TOKENS] = hit_tokens


@compiled
def preempted(record, request):
    """Write down that a request lost its blocks."""
    int_rows(record, COUNTS)[request, PREEMPTIONS] += 1


@compiled
def delivered(record, requests, now_s):
    """Write down that each of these requests got a token now."""
    lines, gaps, scale = float_rows(record, REQUESTS), ints(record, GAPS), floats(record, SCALE)
    for place in range(requests.size):
        line = lines[requests[place]]
        if math.isnan(line[FIRST_S]):
            line[FIRST_S] = now_s
        else:
            gap_s = now_s - line[LAST_S]
            line[LONGEST_GAP_S] = max(line[LONGEST_GAP_S], gap_s)
            gaps[_bin(gap_s, scale, gaps.size)] += 1
        line[LAST_S] = now_s


@compiled
def _bin(gap_s, scale, num_bins):
    if gap_s <= scale[LEAST_S]:
        return 0
    return min(int(math.log(gap_s / scale[LEAST_S]) / scale[WIDTH]), num_bins - 1)
