"""A policy decides every step and layer of a replay."""

from __future__ import annotations

from collections.abc import Iterator

from kvsim.policies import Decision, Policy, Residency
from kvsim.policies.base import reads_speculation
from kvsim.sim import Replay
from kvsim.sim.replay import Reading


def decisions_of(residency: Residency, policy: Policy, replay: Replay) -> Iterator[tuple[Reading, Decision]]:
    """Yield what each layer of each step reads, and what `residency`, which has started, decides with its policy."""
    for step in range(replay.num_steps):
        for layer in range(replay.grid.num_layers):
            reading = replay.at(step, layer, everything=policy.attends == "everything")
            yield (
                reading,
                residency.decide(
                    step=step,
                    layer=layer,
                    selected=reading.selected,
                    scores=reading.scores,
                    num_pages=reading.num_pages,
                    speculation=replay.speculation(step, layer) if reads_speculation(policy) else None,
                ),
            )
