"""What the replay kernels of one policy each (``replay_*.py``) agree upon.

``access(where, state, ids, hits, victims) -> number of hits`` carries out one access after another.

- `where`, ``[num_ids]``: what the policy knows of each dense id; `NONE` at first. It may grow between calls.
- `state`: the policy's other arrays, as its ``make_state`` makes them. Nothing else is kept, so a trace in pieces
  gives what it gives at once.
- `ids`: dense ids, uint32. The callers say only what lies within `where`.
- `hits`, `victims`, ``[len(ids)]`` or None: whether each access found its id, and the id that left for it: `NONE` where
  none did, `NOT_ADMITTED` where the id itself was not let in. Without them only the count is made, by code of its own.

Ids and places are unsigned: numba then spares the test for a negative index, a third of the time of a cheap policy.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

NONE = np.uint32(2**32 - 1)
NOT_ADMITTED = np.uint32(2**32 - 2)
MAX_IDS = 2**31 - 2

Word: TypeAlias = Any
"""An unsigned 64-bit number. numba compiles a function for the types it is called with; annotations do not bind it."""
