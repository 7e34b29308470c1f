"""When blocks are wanted next, for a bound that knows the future."""

from __future__ import annotations

from collections.abc import Sequence


def next_uses(chains: Sequence[Sequence[int]], most_hits: Sequence[int] | None = None) -> list[list[int]]:
    """Return for each block of each request the place in the trace where it is used next; its length where never.

    Parameters
    ----------
    most_hits
        Blocks that each request may hit: what it computes again beyond is no use of a cache.

    Examples
    --------
    >>> next_uses([[7, 8], [7, 8]]), next_uses([[7, 8], [7, 8]], [1, 1])
    ([[2, 3], [4, 4]], [[2, 4], [4, 4]])
    """
    never = sum(map(len, chains))
    coming: dict[int, int] = {}
    uses: list[list[int]] = [[] for _ in chains]
    place = never
    for request in range(len(chains) - 1, -1, -1):
        chain = chains[request]
        most = len(chain) if most_hits is None else most_hits[request]
        for number in range(len(chain) - 1, -1, -1):
            place -= 1
            uses[request].append(coming.get(chain[number], never))
            if number < most:
                coming[chain[number]] = place
        uses[request].reverse()
    return uses
