"""Eviction policies of a keyed store by name, each with its kernel and its source.

Adding one: a kernel ``kvsim/kernels/replay/<name>.py``, a line here, and a plain version in ``tests/caches/plain.py``
that the kernel is held to. Policies of the paged KV cache, which choose among evictable pages batch by batch, are in
`kvsim.policies`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from kvsim.errors import ScenarioError
from kvsim.scenario.toml import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """What is known of one policy before anything is compiled."""

    kind: Literal["eviction", "admission", "oracle"]
    """An oracle must be given the whole trace; `admission` says that the policy may refuse a key."""
    source: str
    kernel: str
    """Module of ``make_state`` and ``access``."""
    arguments: tuple[tuple[str, Any], ...] = ()
    """What ``make_state`` is given besides the capacity."""
    takes_seed: bool = False

    def make_state(self, capacity: int, **known: Any) -> Any:
        """Return the kernel's arrays for an empty cache."""
        return importlib.import_module(self.kernel).make_state(capacity, **dict(self.arguments), **known)

    @property
    def access(self) -> Callable[..., int]:
        """The kernel that carries out accesses (`kvsim.kernels.replay.contract`)."""
        kernel: Callable[..., int] = importlib.import_module(self.kernel).access
        return kernel


CACHE_POLICIES: dict[str, CachePolicy] = {
    "fifo": CachePolicy(kind="eviction", source="first in, first out", kernel="kvsim.kernels.replay.fifo"),
    "lru": CachePolicy(
        kind="eviction",
        source="Mattson, Gecsei, Slutz, Traiger, IBM Systems Journal 9(2), 1970",
        kernel="kvsim.kernels.replay.lru",
    ),
    "lfu": CachePolicy(
        kind="eviction",
        source="Shah, Mitra, Matani, An O(1) algorithm for implementing the LFU cache eviction scheme, 2010",
        kernel="kvsim.kernels.replay.lfu",
    ),
    "sieve": CachePolicy(
        kind="eviction",
        source="Zhang, Yang, Yue, Vigfusson, Rashmi, NSDI 2024",
        kernel="kvsim.kernels.replay.sieve",
    ),
    "arc": CachePolicy(
        kind="eviction",
        source="Megiddo, Modha, FAST 2003",
        kernel="kvsim.kernels.replay.arc",
    ),
    "s3-fifo": CachePolicy(
        kind="eviction",
        source="Yang, Zhang, Qiu, Yue, Rashmi, SOSP 2023",
        kernel="kvsim.kernels.replay.s3_fifo",
    ),
    "random": CachePolicy(
        kind="eviction",
        source="uniform, drawn by splitmix64",
        kernel="kvsim.kernels.replay.random",
        takes_seed=True,
    ),
    "second-touch": CachePolicy(
        kind="admission",
        source="LRU that lets a key in when it is met for the second time",
        kernel="kvsim.kernels.replay.lru",
        arguments=(("admits_all", False),),
    ),
    "belady": CachePolicy(
        kind="oracle",
        source="Belady, IBM Systems Journal 5(2), 1966",
        kernel="kvsim.kernels.replay.belady",
    ),
}


def find_cache_policy(name: str) -> CachePolicy:
    """Return the policy called `name`.

    Raises
    ------
    ScenarioError
        If there is none.
    """
    if name not in CACHE_POLICIES:
        raise ScenarioError(f"unknown cache policy {name!r}{nearest(name, CACHE_POLICIES)}")
    return CACHE_POLICIES[name]
