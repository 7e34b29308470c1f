"""Random requests over one pool: `_check` after every operation, and the rules that hold whatever the order."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvsim.caches.blocks import BlockPool, BlockTables

BLOCK_TOKENS = 4
CHAINS = [[0, 1, 2, 3], [0, 1, 4, 5], [0, 6, 7, 8], [9, 10, 11, 12], [0, 1, 2, 3], [0, 1, 2, 13]]
LONGEST = len(CHAINS[0]) * BLOCK_TOKENS + BLOCK_TOKENS - 1
OWNERS = st.integers(0, len(CHAINS) - 1)
TOKENS = st.integers(1, LONGEST)


class Requests(RuleBasedStateMachine):
    """Requests are admitted, grow, confirm tokens and leave, as a scheduler may let them."""

    caching = True

    def __init__(self):
        super().__init__()
        self.tables = BlockTables(BlockPool(9), BLOCK_TOKENS, CHAINS if self.caching else None)
        self.num_tokens = {}
        self.num_evicted = 0

    @rule(owner=OWNERS, num_tokens=TOKENS, num_known=TOKENS)
    def admit(self, owner, num_tokens, num_known):
        if owner in self.num_tokens:
            return
        hits = self.tables.lookup(owner, num_known)
        assert len(hits) <= (num_known - 1) // BLOCK_TOKENS
        num_tokens = max(num_tokens, len(hits) * BLOCK_TOKENS)
        need = self.tables.need(num_tokens, hits)
        free = self.tables.num_free
        if need <= free:
            self.tables.admit(owner, hits, num_tokens, num_known)
            assert self.tables.held(owner)[: len(hits)] == hits
            assert free - self.tables.num_free == need, "need says what admit takes"
            self.num_tokens[owner] = num_tokens

    @rule(owner=OWNERS, more=st.integers(1, 9), num_known=TOKENS)
    def extend(self, owner, more, num_known):
        if owner not in self.num_tokens:
            return
        num_tokens = min(self.num_tokens[owner] + more, LONGEST)
        held, free = self.tables.held(owner), self.tables.num_free
        if self.tables.extend(owner, num_tokens, num_known):
            self.num_tokens[owner] = num_tokens
            assert self.tables.held(owner)[: len(held)] == held
        else:
            assert (self.tables.held(owner), self.tables.num_free) == (held, free)
            assert -(-num_tokens // BLOCK_TOKENS) - len(held) > free

    @rule(owner=OWNERS)
    def confirm(self, owner):
        if owner in self.num_tokens:
            self.tables.cache(owner, self.num_tokens[owner])

    @precondition(lambda self: self.num_tokens)
    @rule(data=st.data())
    def release(self, data):
        owner = data.draw(st.sampled_from(sorted(self.num_tokens)))
        held = self.tables.held(owner)
        self.tables.release(owner)
        del self.num_tokens[owner]
        order = list(self.tables.pool.free)
        cached = [block for block in held if block in order and self.tables.pool.keys[block] is not None]
        assert cached == [] or order[-len(cached) :] == cached[::-1], "the tail is evicted before the head"

    @rule()
    def take_events(self):
        evicted, stored = self.tables.take_events()
        assert self.caching or not (evicted or stored)

    @invariant()
    def holds(self):
        self.tables._check()
        for owner, num_tokens in self.num_tokens.items():
            assert self.tables.capacity(owner) >= num_tokens


class RequestsWithoutCaching(Requests):
    caching = False


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=60, stateful_step_count=60)
TestRequestsWithoutCaching = RequestsWithoutCaching.TestCase
TestRequestsWithoutCaching.settings = settings(max_examples=20, stateful_step_count=40)


def test_a_request_admitted_later_in_the_same_step_hits_blocks_that_are_not_computed_yet():
    tables = BlockTables(BlockPool(9), BLOCK_TOKENS, CHAINS)
    tables.admit(0, [], num_tokens=10, num_known=16)
    assert tables.lookup(1, num_tokens=16) == tables.held(0)[:2]


def test_when_all_of_a_prompt_is_cached_its_last_block_is_computed_again():
    tables = BlockTables(BlockPool(9), BLOCK_TOKENS, CHAINS)
    tables.admit(0, [], num_tokens=16, num_known=16)
    assert len(tables.lookup(4, num_tokens=16)) == 3
    assert len(tables.lookup(4, num_tokens=17)) == 4


def test_a_block_beyond_the_known_tokens_is_not_cached_until_they_are_confirmed():
    tables = BlockTables(BlockPool(9), BLOCK_TOKENS, CHAINS)
    tables.admit(0, [], num_tokens=8, num_known=7)
    assert tables.take_events() == ([], [0])
    tables.cache(0, 8)
    assert tables.take_events() == ([], [1])


def test_check_notices_a_block_that_nobody_holds():
    tables = BlockTables(BlockPool(9), BLOCK_TOKENS, CHAINS)
    tables.admit(0, [], num_tokens=8, num_known=8)
    tables.pool.take()
    with pytest.raises(AssertionError, match="nobody"):
        tables._check()
