"""Which policies a whole-step kernel decides by itself: their parts as numbers, and the state they start with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvsim.kernels import decide
from kvsim.policies.admission import Always
from kvsim.policies.base import Policy, Setting
from kvsim.policies.paged import Paged
from kvsim.policies.prefetch_next_step import NEVER, NextStep
from kvsim.policies.prefetch_none import NoPrefetch
from kvsim.policies.resident import Resident
from kvsim.types import IntArray, PageIds


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A policy as `kvsim.kernels.decide` takes it."""

    rules: IntArray
    links: IntArray

    @property
    def is_plain(self) -> bool:
        """Whether the policy is no kernel and has to be asked."""
        return int(self.rules[decide.POLICY]) == decide.NO_POLICY


def make_rules(policy: Policy, setting: Setting, resident: PageIds) -> Rules:
    """Return what a kernel needs to decide in the place of `policy`, which has just been started with `resident`.

    Where there is no kernel for it, or a user asked for plain parts, the rules say so.
    """
    grid = setting.grid
    rules = np.zeros(decide.NUM_RULES, dtype=np.int64)
    rules[decide.POLICY], rules[decide.PREFETCHER], rules[decide.WINDOW_STEPS] = _parts(policy)
    num_sentinels = grid.num_layers * grid.num_sequences
    num_pools = grid.num_layers if setting.partition == "per_layer" else 1
    links = np.full((decide.NUM_LINK_ROWS, grid.num_pages + num_sentinels), -1, dtype=np.int64)
    sentinels = np.arange(grid.num_pages, links.shape[1])
    links[: decide.READ_AT, grid.num_pages :] = sentinels
    links[decide.READ_AT] = NEVER
    counts_of_layer = grid.layer_of(resident)
    for pool in range(num_pools if rules[decide.POLICY] == decide.LRU else 0):
        pages = resident if num_pools == 1 else resident[counts_of_layer == pool]
        _chain(links, pages, int(sentinels[-1]) + 1 - num_pools + pool)
    return Rules(rules=rules, links=links)


def _parts(policy: Policy) -> tuple[int, int, int]:
    if isinstance(policy, Resident):
        return decide.KEEP_ALL, decide.NO_PREFETCH, 0
    plain = decide.NO_POLICY, decide.NO_PREFETCH, 0
    # the compiled evictor alone: who asked for plain parts gets plain parts
    if type(policy) is not Paged or type(policy.evictor).__name__ != "CompiledLru":
        return plain
    if type(policy.admission) is not Always:
        return plain
    if type(policy.prefetcher) is NoPrefetch:
        return decide.LRU, decide.NO_PREFETCH, 0
    if type(policy.prefetcher) is NextStep:
        return decide.LRU, decide.NEXT_STEP, policy.prefetcher.window_steps
    return plain


def _chain(links: IntArray, pages: PageIds, sentinel: int) -> None:
    """Link `pages`, oldest first, into the evictor's empty list."""
    ring = np.concatenate(([sentinel], pages, [sentinel]))
    links[decide.NEWER, ring[:-1]] = ring[1:]
    links[decide.OLDER, ring[1:]] = ring[:-1]
