"""Every schedule recorded from vLLM 0.32.0 itself, step by step; no vLLM is needed to compare.

Arrivals by step, and after another request's end, are deterministic, so all of a step is compared: the batch in order,
admissions with their hits, preemptions in order, evictions and newly cached blocks in order, free blocks before and
after the step's end, who finished, lengths of both queues. Wall times in the files are not read. A workload recorded by
wall clock has the step before which each request was added; replayed by these steps it is compared just the same.
"""

import pytest

from kvsim.caches.blocks import BlockTables
from kvsim.experiments.serving.schedules.compare import first_difference
from kvsim.experiments.serving.schedules.replay import replay
from tests.experiments.serving.schedules.recorded import NAMES, difference_with, load

RECORDED_WITH_THE_MODEL = 22
"""Schedules of vLLM with SmolLM2-135M on a CPU."""
RECORDED_WITHOUT_A_MODEL = {
    "async-preemption",
    "async-priority",
    "async-stop-tokens",
    "async-whole-prefills",
    "stop-tokens",
    "whole-prefills",
}
"""A function of the last tokens was in the model's place; scheduler and block pool are vLLM's just the same."""


def test_all_recorded_schedules_are_here():
    assert set(NAMES) >= RECORDED_WITHOUT_A_MODEL
    assert len(NAMES) == RECORDED_WITH_THE_MODEL + len(RECORDED_WITHOUT_A_MODEL)
    assert all(load(name).made_by["vllm"] == "0.32.0" for name in RECORDED_WITHOUT_A_MODEL)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_schedule_equals_vllm_s_in_every_step(name, compiled):
    workload = load(name)
    assert len(workload.steps) > 60
    assert first_difference(workload, replay(workload, compiled=compiled)) is None


class CheckedTables(BlockTables):
    """Block tables that check all their invariants after every step."""

    def take_events(self):
        self._check()
        return super().take_events()


@pytest.mark.parametrize("name", ["no-full-reservation", "priority-ties", "shared-preemption", "async-preemption"])
def test_the_invariants_of_the_blocks_hold_after_every_step(name):
    assert difference_with(load(name), tables=CheckedTables) is None


def test_the_recorded_schedules_exercise_what_they_are_for():
    """Each rule that is compared happens often enough that a wrong one would show."""
    steps = [(name, step) for name in NAMES for step in load(name).steps]
    assert sum(len(step.preempted) for _, step in steps) > 150
    assert sum(step.preempted_order is not None for _, step in steps) > 5
    assert sum(len(step.evicted) for _, step in steps) > 5000
    assert sum(hit > 0 for _, step in steps for _, hit in step.admitted) > 400
    assert sum(len(step.stored or ()) for _, step in steps) > 1000
