"""Tiers below the device in simulated time: what is transferred takes its link's time, and is seen at a step's end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import simpy

from kvsim.caches.tiers.offload import Kind, Offload, Transfer
from kvsim.sim.serving.link import BlockLink


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSetup:
    """The tiers of a run."""

    offload: Offload
    transfer_s: Mapping[Kind, Callable[[int], float]]
    """For each kind of transfer that there is, seconds of so many blocks over its idle link."""


class Tiers:
    """Carries out the transfers that an engine's tiers ask for.

    As in vLLM, stores are handed to the link at the beginning of the next step, so that they do not delay sampling,
    and loads at once.

    Each kind of transfer has a link of its own.
    """

    def __init__(self, env: simpy.Environment, setup: TierSetup) -> None:
        self._env = env
        self._offload = setup.offload
        self.links = {kind: BlockLink(env, transfer_s) for kind, transfer_s in setup.transfer_s.items()}
        self._under_way: dict[Transfer, simpy.Event] = {}
        self._ends_s: dict[Transfer, float] = {}
        self._ended: list[Transfer] = []
        self._held_back: list[Transfer] = []

    def begin_step(self) -> simpy.Event | None:
        """Hand over what a step that was just scheduled asks for.

        Returns
        -------
        simpy.Event or None
            What the step must wait for before it runs: stores that read blocks to which it writes.
        """
        self.hand_over_stores()
        new, flushed = self._offload.take_new()
        for transfer in new:
            if transfer.kind == "store" and transfer not in flushed:
                self._held_back.append(transfer)
            else:
                self._put(transfer)
        waits_for = [self._under_way[transfer] for transfer in flushed if transfer in self._under_way]
        return self._env.all_of(waits_for) if waits_for else None

    def hand_over_stores(self) -> None:
        """Begin the stores of the step before."""
        for transfer in self._held_back:
            self._put(transfer)
        self._held_back.clear()

    def end_step(self) -> None:
        """Let the tiers know what has arrived."""
        for transfer in self._ended:
            self._offload.arrived(transfer)
        self._ended.clear()
        for transfer in self._offload.take_new()[0]:  # what goes on to the next tier
            self._put(transfer)

    def next_end_s(self) -> float | None:
        """Return when the next transfer ends; None if there is nothing to wait for."""
        if self._ended or self._held_back:
            return None
        return min(self._ends_s.values(), default=None)

    def _put(self, transfer: Transfer) -> None:
        link = self.links[transfer.kind]
        done = link.put(transfer.num_blocks)
        self._under_way[transfer] = done
        self._ends_s[transfer] = link.free_s
        done.callbacks.append(lambda _: self._end(transfer))

    def _end(self, transfer: Transfer) -> None:
        del self._under_way[transfer], self._ends_s[transfer]
        self._ended.append(transfer)
