"""What a core refuses of a scheduler that is plugged in, and what holds of every run."""

import tracemalloc
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import PolicyError
from kvsim.policies.schedulers import FcfsQueue, StepPlan
from kvsim.policies.schedulers.vllm import Vllm
from tests.policies.schedulers.cores import LENGTHS, LONGEST_BLOCKS, make_core


@dataclass
class Greedy:
    """Takes whatever it is told to take, allowed or not."""

    tokens: int
    room: int
    requests: int = 1

    def queue(self):
        return FcfsQueue()

    def schedule(self, state, budget):
        plan = StepPlan()
        for _ in range(self.requests):
            request = state.waiting.pop()
            plan.admitted.append((request, state.admit(request, [], self.room)))
            plan.scheduled[request] = self.tokens
        return plan


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (Greedy(tokens=9, room=9), "9 tokens scheduled after 0 of 8"),
        (Greedy(tokens=8, room=4), "8 tokens scheduled after 0 of 8"),
        (Greedy(tokens=0, room=4), "0 tokens scheduled"),
        (Greedy(tokens=4, room=80), "20 blocks where 9 are free"),
        (Greedy(tokens=8, room=8, requests=2), "16 tokens, 2 requests running; a step has 12 tokens"),
        (Greedy(tokens=2, room=8, requests=3), "3 requests running"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_line(scheduler, message):
    core = make_core(scheduler, [(8, 2)] * 3, num_blocks=10, tokens=12, sequences=2)
    with pytest.raises(PolicyError, match=message) as refusal:
        core.schedule()
    assert "\n" not in str(refusal.value)


@given(
    LENGTHS,
    st.integers(0, 10),
    st.integers(1, 40),
    st.integers(1, 4),
    st.booleans(),
    st.builds(
        Vllm,
        order=st.sampled_from(["fcfs", "priority"]),
        long_prefill_tokens=st.sampled_from([0, 3]),
        watermark_frac=st.sampled_from([0.0, 0.3]),
        reserve_full_prompt=st.booleans(),
    ),
    st.data(),
)
def test_every_request_gets_all_its_tokens_within_the_limits(
    lengths, spare_blocks, tokens, sequences, is_async, scheduler, data
):
    shared = [
        [place if place < data.draw(st.integers(0, 8)) else 100 * (index + 1) + place for place in range(12)]
        for index in range(len(lengths))
    ]
    core = make_core(
        scheduler,
        lengths,
        num_blocks=1 + LONGEST_BLOCKS + spare_blocks,
        tokens=tokens,
        sequences=sequences,
        chains=shared,
        is_async=is_async,
        priority=[index % 3 for index in range(len(lengths))],
    )
    num_sampled, in_flight = [0] * len(lengths), 0
    while core.num_unfinished:
        step = core.schedule()
        in_flight += 1
        core.state.blocks._check()
        assert sum(count for _, count in step.scheduled) == step.work.tokens <= tokens
        assert core.num_running <= sequences
        assert core.num_running + core.num_waiting == core.num_unfinished
        assert step.work.requests or step.preempted or in_flight == 2
        if in_flight == 1 + is_async:
            in_flight -= 1
            outcome = core.update()
            core.state.blocks._check()
            for place in outcome.sampled:
                num_sampled[place] += 1
            assert set(outcome.finished) <= set(outcome.sampled)
    assert num_sampled == [outputs for _, outputs in lengths]
    assert core.num_free_blocks == core.state.blocks.num_blocks - 1


def test_memory_does_not_grow_with_steps():
    def peak_bytes(num_requests):
        core = make_core(Vllm(), [(4, 50)] * num_requests, num_blocks=40, sequences=2)
        tracemalloc.start()
        while core.num_unfinished:
            core.schedule()
            core.update()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(100) < 2 * peak_bytes(10)
