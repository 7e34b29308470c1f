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
    """Module of ``make_state`` and ``access`` in `kvsim.kernels.replay`."""
    arguments: tuple[tuple[str, Any], ...] = ()
    """What ``make_state`` is given besides the capacity."""
    takes_seed: bool = False

    def make_state(self, capacity: int, **known: Any) -> Any:
        """Return the kernel's arrays for an empty cache."""
        return self._module.make_state(capacity, **dict(self.arguments), **known)

    @property
    def access(self) -> Callable[..., int]:
        """The kernel that carries out accesses (`kvsim.kernels.replay.contract`)."""
        kernel: Callable[..., int] = self._module.access
        return kernel

    @property
    def _module(self) -> Any:
        return importlib.import_module(f"kvsim.kernels.replay.{self.kernel}")


CACHE_POLICIES: dict[str, CachePolicy] = {
    "fifo": CachePolicy(kind="eviction", source="first in, first out", kernel="fifo"),
    "lru": CachePolicy(
        kind="eviction", source="Mattson, Gecsei, Slutz, Traiger, IBM Systems Journal 9(2), 1970", kernel="lru"
    ),
    "lfu": CachePolicy(
        kind="eviction",
        source="Shah, Mitra, Matani, An O(1) algorithm for implementing the LFU cache eviction scheme, 2010",
        kernel="lfu",
    ),
    "sieve": CachePolicy(kind="eviction", source="Zhang, Yang, Yue, Vigfusson, Rashmi, NSDI 2024", kernel="sieve"),
    "arc": CachePolicy(kind="eviction", source="Megiddo, Modha, FAST 2003", kernel="arc"),
    "s3-fifo": CachePolicy(kind="eviction", source="Yang, Zhang, Qiu, Yue, Rashmi, SOSP 2023", kernel="s3_fifo"),
    "random": CachePolicy(
        kind="eviction",
        source="uniform, drawn by splitmix64",
        kernel="random",
        takes_seed=True,
    ),
    "second-touch": CachePolicy(
        kind="admission",
        source="LRU that lets a key in when it is met for the second time",
        kernel="lru",
        arguments=(("admits_all", False),),
    ),
    "belady": CachePolicy(kind="oracle", source="Belady, IBM Systems Journal 5(2), 1966", kernel="belady"),
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
