"""One direction of a link between two tiers: transfers one after another, each as long as its blocks take."""

from __future__ import annotations

from collections.abc import Callable

import simpy


class BlockLink:
    """A queue of transfers in one direction.

    Parameters
    ----------
    transfer_s
        Seconds of so many blocks over the idle link.
    """

    def __init__(self, env: simpy.Environment, transfer_s: Callable[[int], float]) -> None:
        self._env = env
        self._transfer_s = transfer_s
        self.free_s = 0.0
        """When all transfers that were put so far have arrived."""
        self.busy_s = 0.0
        """Seconds of all transfers that were put so far."""
        self.num_blocks = 0

    def put(self, num_blocks: int) -> simpy.Event:
        """Queue a transfer, and return an event that fires when its blocks have arrived."""
        lasts_s = self._transfer_s(num_blocks)
        self.free_s = max(self.free_s, self._env.now) + lasts_s
        self.busy_s += lasts_s
        self.num_blocks += num_blocks
        return self._env.timeout(self.free_s - self._env.now)
