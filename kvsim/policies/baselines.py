"""Caches of others, measured beside the policies: nobody here knows what they do when, so they are never simulated."""

from __future__ import annotations

from typing import ClassVar, Literal

from kvsim.policies.registry import Entry


class HfOffloaded:
    """transformers' own offloaded cache: each step moves the keys and values of every layer to the device and back.

    The layer at work and the next one are on the device; all else is in host memory. It attends to everything.
    """

    attends: ClassVar[Literal["selection", "everything", "resident"]] = "everything"
    holds: ClassVar[Literal["budget", "everything"]] = "everything"
    """It knows no budget."""
    reads_selection: ClassVar[bool] = False
    device_layers: ClassVar[int] = 2
    """Layers whose keys and values are on the device at once; no policy has this attribute."""


PEERS: dict[str, Entry] = {
    "hf-offloaded": Entry(
        "kvsim.policies.baselines:HfOffloaded", "policy", "transformers, DynamicCache(offloading=True)"
    ),
}
"""Named in ``run.policies`` like a policy, for `kvsim measure` alone."""
