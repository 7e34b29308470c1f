"""Writes down when tokens come: the first and the last one of each request, and a histogram of the gaps between them.

The histogram has bins of one width in the logarithm, so that its size does not depend on how long a run is.
"""

from __future__ import annotations

import math

from kvsim.kernels.arrays import compiled, float_rows, floats, ints

(REQUESTS, GAPS, SCALE) = range(3)
NUM_ARRAYS = 3

# columns of `REQUESTS`, a line a request
(FIRST_S, LAST_S, LONGEST_GAP_S) = range(3)
NUM_COLUMNS = 3

# `SCALE`: the lower edge of bin 0, and how wide bins are in the natural logarithm
(LEAST_S, WIDTH) = range(2)


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
