"""Replaying workloads: arrivals, files, and schedulers that are plugged in."""

import gzip
import json
import textwrap

import pytest

from kvsim.errors import PolicyError, TraceError
from kvsim.experiments.serving.schedules.compare import first_difference
from kvsim.experiments.serving.schedules.replay import replay
from kvsim.experiments.serving.schedules.workload import Workload, read_workload
from kvsim.experiments.serving.schedules.write import write_schedule
from tests.experiments.serving.schedules.recorded import load
from tests.experiments.serving.tiny import SMALL_ENGINE

ENGINE = SMALL_ENGINE | {"num_gpu_blocks_override": 17}


def workload(*requests, **fields):
    rows = [{"id": name, "segments": [[place, 6]], "max_tokens": 2} | row for place, (name, row) in enumerate(requests)]
    return Workload.model_validate_json(json.dumps({"engine": ENGINE, "requests": rows, **fields}))


def batches(parsed, *arguments):
    return [dict(step.scheduled) for step in replay(parsed, *arguments)]


def test_an_idle_engine_takes_the_next_arrivals_at_once():
    assert batches(workload(("a", {"arrival_step": 5}), ("b", {"arrival_step": 90}))) == [
        {"a": 6},
        {"a": 1},
        {"b": 6},
        {"b": 1},
    ]


def test_a_follower_comes_so_many_steps_after_the_other_s_last_one():
    parsed = workload(
        ("a", {"arrival_step": 0}), ("b", {"arrival_step": 0, "max_tokens": 6}), ("c", {"after": ["a", 3]})
    )
    assert [step for step, batch in enumerate(batches(parsed)) if "c" in batch] == [4, 5]


def test_requests_that_wait_for_each_other_are_refused():
    with pytest.raises(TraceError, match="wait for each other"):
        batches(workload(("a", {"after": ["b", 1]}), ("b", {"after": ["a", 1]})))


def test_a_prompt_cannot_have_outputs_that_do_not_exist_yet():
    follower = {"segments": [{"output_of": "a", "length": 2}], "arrival_step": 1}
    with pytest.raises(TraceError, match="'b': its prompt has outputs of 'a', which has not finished"):
        batches(workload(("a", {"arrival_step": 0}), ("b", follower)))


def test_a_step_of_the_recorded_clock_is_all_that_a_workload_by_wall_clock_needs():
    parsed = workload(("a", {"arrival_step": 0, "arrival_s": 0.5}), clock="wall")
    assert len(batches(parsed)) == 2


@pytest.mark.parametrize("name", ["edges", "closed-loop-chat", "no-prefix-caching", "async-preemption"])
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_a_written_schedule_reads_back_equal_to_the_recorded_one(tmp_path, name, suffix):
    recorded = load(name)
    path = tmp_path / f"schedule{suffix}"
    totals = write_schedule(path, recorded)
    written = read_workload(path)
    assert first_difference(recorded, written.steps) is None
    assert first_difference(written, replay(written)) is None
    assert totals["steps"] == len(recorded.steps) == written.totals["steps"]
    if recorded.totals:
        assert totals == {name: value for name, value in recorded.totals.items() if name != "seconds"}
    assert written.outputs == recorded.outputs
    assert (
        recorded.resolved.items()
        <= (written.resolved | {"max_num_scheduled_tokens": recorded.resolved.get("max_num_scheduled_tokens")}).items()
    )
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_equal_schedules_are_equal_files(tmp_path):
    for name in ("a.json.gz", "b.json.gz"):
        write_schedule(tmp_path / name, load("edges"))
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


def test_a_replay_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(TraceError):
        write_schedule(tmp_path / "a.json", workload(("a", {"after": ["b", 1]}), ("b", {"after": ["a", 1]})))
    assert list(tmp_path.iterdir()) == []


def test_the_first_difference_names_step_field_and_both_values():
    recorded = load("edges")
    steps = list(recorded.steps)
    steps[7] = steps[7].model_copy(update={"free_blocks": 3})
    assert (
        first_difference(recorded, steps) == f"step 7: free_blocks: recorded {recorded.steps[7].free_blocks}, other 3"
    )
    assert first_difference(recorded, recorded.steps[:-1]) == "step 242: only the recorded schedule has it"


PLUG_IN = """
from kvsim.policies.schedulers import FcfsQueue, StepPlan

class OneByOne:
    def __init__(self, lazy=False):
        self.lazy = lazy

    def queue(self):
        return FcfsQueue()

    def schedule(self, state, budget):
        plan = StepPlan()
        if self.lazy:
            return plan
        if not state.running:
            request = state.waiting.pop()
            plan.admitted.append((request, state.admit(request, [], 0)))
        request = state.running[0]
        tokens = min(request.tokens_to_compute(budget.model_tokens), budget.tokens)
        assert state.extend(request, tokens)
        plan.scheduled[request] = tokens
        return plan
"""


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    (tmp_path / "my_schedulers.py").write_text(textwrap.dedent(PLUG_IN))
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_schedulers:OneByOne"


def test_a_scheduler_is_plugged_in_by_its_dotted_path(plug_in, tmp_path):
    parsed = workload(("a", {"arrival_step": 0}), ("b", {"arrival_step": 0}))
    assert batches(parsed, plug_in) == [{"a": 6}, {"a": 1}, {"b": 6}, {"b": 1}]
    write_schedule(tmp_path / "out.json", parsed, plug_in)
    assert read_workload(tmp_path / "out.json").made_by["scheduler"] == plug_in


def test_a_scheduler_that_leaves_everybody_waiting_is_reported(plug_in):
    with pytest.raises(PolicyError, match="step 0: nothing is scheduled while 1 requests wait"):
        batches(workload(("a", {"arrival_step": 0})), plug_in, {"lazy": True})


def test_static_batching_needs_more_steps_than_vllm_on_recorded_traffic():
    parsed = load("no-pressure")
    assert len(batches(parsed, "static")) > len(parsed.steps)


def test_damaged_gzip_is_not_mistaken_for_a_schedule(tmp_path):
    path = tmp_path / "cut.json.gz"
    path.write_bytes(gzip.compress(b"{}" * 1000)[:-4])
    with pytest.raises(TraceError, match="cannot be read"):
        read_workload(path)
