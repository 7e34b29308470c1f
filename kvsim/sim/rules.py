"""Which policies a fast-path kernel decides by itself: their parts as numbers, and the state they start with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.pages import lists
from kvsim.kernels.step import decide
from kvsim.policies.admission import Always
from kvsim.policies.base import Policy, Setting
from kvsim.policies.composed import Paged
from kvsim.policies.evictors.compiled import CompiledLru
from kvsim.policies.prefetchers.next_step import NextStep
from kvsim.policies.prefetchers.none import NoPrefetch
from kvsim.policies.standalone.resident import Resident
from kvsim.types import IntArray, PageIds


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A policy as `kvsim.kernels.step.decide` takes it."""

    rules: IntArray
    links: NDArray[np.uint32]
    """What the evictor orders, as `kvsim.kernels.pages.lists` has it."""
    read_bits: NDArray[np.uint64]
    """What each layer of each sequence read in each step of the window, ``[lines, words]``."""
    lost_bits: NDArray[np.uint64]
    """Room for one decision, ``[num_sequences, words]``."""


def make_rules(policy: Policy, setting: Setting, resident: PageIds) -> Rules:
    """Return what a kernel needs to decide in the place of `policy`, which has just been started with `resident`.

    Where there is no kernel for it, or a user asked for plain parts, the rules say so.
    """
    grid = setting.grid
    rules = np.zeros(decide.NUM_RULES, dtype=np.int64)
    rules[decide.POLICY], rules[decide.PREFETCHER], rules[decide.WINDOW_STEPS] = _parts(policy)
    num_pools = grid.num_layers if setting.partition == "per_layer" else 1
    links = lists.empty_lists(grid.num_pages, num_pools)
    if rules[decide.POLICY] == decide.LRU:
        lists.arrived(links, resident, grid.pages_per_layer, num_pools)
    lines = grid.num_sequences * grid.num_layers * int(rules[decide.WINDOW_STEPS])
    words = -(-grid.pages_per_layer // 64)
    return Rules(
        rules=rules,
        links=links,
        read_bits=np.zeros((lines, words), dtype=np.uint64),
        lost_bits=np.zeros((grid.num_sequences, words), dtype=np.uint64),
    )


def _parts(policy: Policy) -> tuple[int, int, int]:
    if isinstance(policy, Resident):
        return decide.KEEP_ALL, decide.NO_PREFETCH, 0
    plain = decide.NO_POLICY, decide.NO_PREFETCH, 0
    # the compiled evictor alone: who asked for plain parts gets plain parts
    if type(policy) is not Paged or type(policy.evictor) is not CompiledLru:
        return plain
    if type(policy.admission) is not Always:
        return plain
    if type(policy.prefetcher) is NoPrefetch:
        return decide.LRU, decide.NO_PREFETCH, 0
    if type(policy.prefetcher) is NextStep:
        return decide.LRU, decide.NEXT_STEP, policy.prefetcher.window_steps
    return plain
