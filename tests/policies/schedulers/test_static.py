from hypothesis import given
from hypothesis import strategies as st

from kvsim.policies.schedulers.static import Static
from kvsim.policies.schedulers.vllm import Vllm
from tests.policies.schedulers.cores import LENGTHS, LONGEST_BLOCKS, make_core, run


def test_nobody_joins_before_the_whole_batch_is_done():
    batches = run(make_core(Static(), [(3, 1), (3, 4), (3, 1)], sequences=2))
    assert batches == [{0: 3, 1: 3}, {1: 1}, {1: 1}, {1: 1}, {2: 3}]


def test_prompts_are_split_by_the_token_budget():
    assert run(make_core(Static(), [(6, 2), (6, 1)], tokens=8)) == [{0: 6, 1: 2}, {0: 1, 1: 4}]


def test_room_for_all_outputs_is_reserved_before_a_request_joins():
    """Three usable blocks of 4: the first may come to 9 tokens, so the second does not fit though its prompt would."""
    assert run(make_core(Static(), [(4, 6), (4, 1)], num_blocks=4))[0] == {0: 4}
    assert run(make_core(Static(), [(4, 5), (4, 1)], num_blocks=4))[0] == {0: 4, 1: 4}


def test_hits_are_not_computed_again():
    core = make_core(Static(), [(9, 1), (9, 1)], sequences=1, chains=[[0, 1], [0, 1]])
    assert run(core) == [{0: 9}, {1: 1}]


@given(LENGTHS, st.integers(0, 10), st.integers(1, 40), st.integers(1, 4))
def test_every_request_is_served_once_and_none_is_preempted(lengths, spare_blocks, tokens, sequences):
    core = make_core(
        Static(), lengths, num_blocks=1 + LONGEST_BLOCKS + spare_blocks, tokens=tokens, sequences=sequences
    )
    batches = run(core)
    for request, (prompt, outputs) in zip(core.requests, lengths, strict=True):
        assert request.num_preemptions == 0
        assert sum(batch.get(request.index, 0) for batch in batches) == prompt + outputs - 1
    assert core.num_free_blocks == core.state.blocks.num_blocks - 1


@given(LENGTHS, st.integers(1, 4))
def test_continuous_batching_never_needs_more_steps_where_memory_is_plenty(lengths, sequences):
    steps = [
        len(run(make_core(scheduler, lengths, tokens=1000, sequences=sequences))) for scheduler in (Static(), Vllm())
    ]
    assert steps[1] <= steps[0]
