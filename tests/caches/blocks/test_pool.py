import pytest

from kvsim.caches.blocks import BlockPool
from kvsim.errors import CapacityError


def test_the_null_block_is_never_handed_out():
    pool = BlockPool(4)
    assert pool.num_free == 3
    assert [pool.take() for _ in range(3)] == [1, 2, 3]
    pool._check()


def test_a_pool_with_nothing_to_hand_out_is_refused_in_one_line():
    with pytest.raises(CapacityError, match="2 or more") as refusal:
        BlockPool(1)
    assert "\n" not in str(refusal.value)


def test_a_block_is_evicted_when_it_is_handed_out_again_and_not_when_it_is_released():
    pool = BlockPool(2)
    block = pool.take()
    pool.cache(block, key=9)
    pool.release([block])
    assert pool.cached(9) == block and pool.evicted == []
    assert pool.take() == block
    assert pool.cached(9) is None and pool.evicted == [9]
    pool._check()


def test_blocks_without_a_key_are_used_again_first_and_cached_ones_last():
    pool = BlockPool(6)
    taken = [pool.take() for _ in range(4)]
    pool.cache(taken[0], key=0)
    pool.cache(taken[2], key=2)
    pool.release(reversed(taken))
    assert list(pool.free) == [4, 2, 5, 3, 1]
    pool._check()


def test_of_two_blocks_under_one_key_the_first_is_hit_until_it_is_evicted():
    pool = BlockPool(3)
    first, second = pool.take(), pool.take()
    pool.cache(first, key=5)
    pool.cache(second, key=5)
    assert pool.cached(5) == first
    pool.release([first])
    assert pool.take() == first
    assert pool.cached(5) == second
    assert pool.evicted == [5], "an eviction is reported though the key still has a block"
    pool._check()


def test_a_hit_leaves_the_free_queue_and_a_lookup_alone_does_not_move_it():
    pool = BlockPool(4)
    block = pool.take()
    pool.cache(block, key=1)
    pool.release([block])
    order = list(pool.free)
    assert pool.cached(1) == block
    assert list(pool.free) == order
    pool.hold(block)
    assert block not in pool.free
    pool.hold(block)
    pool.release([block])
    assert block not in pool.free, "somebody still holds it"
    pool.release([block])
    assert list(pool.free)[-1] == block
    pool._check()


def test_check_notices_what_it_is_for():
    pool = BlockPool(4)
    block = pool.take()
    pool.holders[block] = 0
    with pytest.raises(AssertionError):
        pool._check()
    pool = BlockPool(4)
    pool.keys[pool.take()] = 3
    with pytest.raises(AssertionError):
        pool._check()
