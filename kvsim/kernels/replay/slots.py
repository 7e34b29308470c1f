"""Gives every resident id a slot, whatever its policy: a newcomer takes its victim's, or the next unused one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit
from kvsim.kernels.replay.contract import NONE, NOT_ADMITTED


@njit
def assign_slots(
    slot_of: NDArray[np.int64],
    used: NDArray[np.int64],
    ids: NDArray[np.uint32],
    hits: NDArray[np.bool_],
    victims: NDArray[np.uint32],
    slots: NDArray[np.int64],
) -> None:
    """Write each access's slot, -1 where its id was not let in; `slot_of`, ``[num_ids]``, follows, -1 of the absent."""
    for at in range(np.uint64(ids.size)):
        key = ids[at]
        victim = victims[at]
        if not hits[at] and victim != NOT_ADMITTED:
            if victim == NONE:
                slot_of[key] = used[0]
                used[0] += 1
            else:
                slot_of[key] = slot_of[victim]
                slot_of[victim] = -1
        slots[at] = slot_of[key]
