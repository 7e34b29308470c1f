"""vLLM's rules on cases small enough to be worked out by hand; recorded schedules are in tests/experiments/serving."""

import pytest

from kvsim.errors import ScenarioError
from kvsim.policies.schedulers.vllm import Vllm
from tests.policies.schedulers.cores import make_core, run


def test_a_request_of_m_outputs_takes_part_in_its_prefill_and_m_minus_1_decodes():
    assert run(make_core(Vllm(), [(5, 3)])) == [{0: 5}, {0: 1}, {0: 1}]


def test_running_requests_come_first_and_the_last_prefill_is_cut_by_the_budget():
    assert run(make_core(Vllm(), [(6, 2), (6, 2)], tokens=8)) == [{0: 6, 1: 2}, {0: 1, 1: 4}, {1: 1}]


def test_without_chunked_prefill_a_prompt_waits_for_a_step_that_takes_it_whole():
    core = make_core(Vllm(chunked_prefill=False), [(6, 2), (6, 2)], tokens=8)
    assert run(core) == [{0: 6}, {0: 1, 1: 6}, {1: 1}]


def test_a_long_prefill_is_split_unless_it_is_alone():
    scheduler = Vllm(long_prefill_tokens=4)
    assert run(make_core(scheduler, [(9, 1)])) == [{0: 9}]
    assert run(make_core(scheduler, [(9, 1), (2, 1)])) == [{0: 4, 1: 2}, {0: 5}]


def test_the_adaptive_limit_is_at_least_the_fair_share_of_the_budget():
    scheduler = Vllm(long_prefill_tokens=4, long_prefill_adaptive=True)
    assert run(make_core(scheduler, [(9, 1), (9, 1)], tokens=12))[0] == {0: 6, 1: 6}


def test_no_more_run_than_may():
    assert run(make_core(Vllm(), [(2, 2), (2, 1)], sequences=1)) == [{0: 2}, {0: 1}, {1: 2}]


def test_the_last_admitted_is_preempted_and_computes_again_with_its_outputs():
    core = make_core(Vllm(), [(4, 9), (4, 3)], num_blocks=4)
    batches, preempted = [], []
    while core.num_unfinished:
        step = core.schedule()
        batches.append(dict(step.scheduled))
        preempted.append(step.preempted)
        core.update()
    assert batches[:3] == [{0: 4, 1: 4}, {0: 1}, {0: 1}]
    assert preempted[1] == [1], "three blocks: nobody's second one is there for request 1"
    assert batches[8:] == [{0: 1}, {1: 5}, {1: 1}], "its prompt and its first output, in one step"
    assert core.requests[1].num_preemptions == 1


def test_with_priorities_the_least_urgent_goes_even_if_it_is_in_the_batch_already():
    core = make_core(
        Vllm(order="priority"), [(4, 2), (4, 9), (4, 9)], num_blocks=5, priority=[1, 0, 0], sequences=3, tokens=12
    )
    assert dict(core.schedule().scheduled) == {1: 4, 2: 4, 0: 4}
    core.update()
    step = core.schedule()
    assert step.preempted == [0]
    assert dict(step.scheduled) == {1: 1, 2: 1}


def test_asynchronous_scheduling_stops_by_length_without_an_extra_step():
    core = make_core(Vllm(), [(5, 3)], is_async=True)
    batches = [dict(core.schedule().scheduled)]
    while core.num_unfinished:
        batches.append(dict(core.schedule().scheduled))
        core.update()
    assert batches == [{0: 5}, {0: 1}, {0: 1}, {}]


def test_the_work_of_a_step_counts_tokens_keys_pairs_and_prefill():
    core = make_core(Vllm(), [(6, 3), (5, 1)], tokens=8)
    work = core.schedule().work
    assert work == (2, 8, 1, 6 + 2, 21 + 3, 8)
    core.update()
    work = core.schedule().work
    assert work == (2, 4, 2, 7 + 5, 7 + (3 * 2 + 6), 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": "lifo"}, "'fcfs' or 'priority'"),
        ({"long_prefill_tokens": -1}, "0 or more"),
        ({"watermark_frac": 1.0}, "below 1"),
    ],
)
def test_impossible_options_are_refused_in_one_line(arguments, message):
    with pytest.raises(ScenarioError, match=message) as refusal:
        Vllm(**arguments)
    assert "\n" not in str(refusal.value)
