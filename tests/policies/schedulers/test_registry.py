import pytest

from kvsim.errors import PolicyError, ScenarioError
from kvsim.policies.schedulers import SCHEDULERS, FcfsQueue, StepBudget, find_scheduler, make_scheduler
from kvsim.policies.schedulers.static import Static
from kvsim.policies.schedulers.vllm import Vllm
from tests.policies.schedulers.cores import make_core, run


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_built_in_scheduler_serves(name):
    core = make_core(make_scheduler(name), [(5, 3), (9, 1), (1, 4)])
    run(core)
    assert all(request.is_finished for request in core.requests)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_built_in_scheduler_plans_nothing_for_nobody(name):
    core = make_core(make_scheduler(name), [])
    assert core.scheduler.schedule(core.state, StepBudget(tokens=8, sequences=2, model_tokens=9)).scheduled == {}


def test_arguments_reach_the_class():
    assert make_scheduler("vllm", {"order": "priority"}) == Vllm(order="priority")
    assert make_scheduler("kvsim.policies.schedulers.static:Static") == Static()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vlm", {}, "did you mean 'vllm'"),
        ("orca", {}, "known are vllm, static"),
        ("no.such:Class", {}, "cannot import 'no.such'"),
        ("kvsim.policies.schedulers.static:Dynamic", {}, "has no 'Dynamic'"),
        ("kvsim.policies.schedulers.queues:FcfsQueue", {}, "lacks queue, schedule"),
        ("static", {"order": "fcfs"}, "unexpected keyword argument 'order'"),
    ],
)
def test_what_is_no_scheduler_is_refused_in_one_line(name, arguments, message):
    with pytest.raises(ScenarioError, match=message) as refusal:
        make_scheduler(name, arguments)
    assert "\n" not in str(refusal.value)


class Failing:
    """A plug-in that goes wrong in each call."""

    def __init__(self, *, raises: str = "") -> None:
        if raises == "__init__":
            raise LookupError("no such luck")
        self.raises = raises

    def queue(self):
        if self.raises == "queue":
            raise LookupError("no such luck")
        return Static().queue()

    def schedule(self, state, budget):
        if self.raises == "schedule":
            raise LookupError("no such luck")
        return


@pytest.mark.parametrize("method", ["__init__", "queue", "schedule"])
def test_what_goes_wrong_in_a_plug_in_is_reported_under_its_name(method):
    with pytest.raises(PolicyError) as error:
        run(make_core(make_scheduler(f"{__name__}:Failing", {"raises": method}), [(5, 3)]))
    first = str(error.value).splitlines()[0]
    expected = f"scheduler '{__name__}:Failing': {method} raised LookupError: no such luck (test_registry.py"
    assert first.startswith(expected)


def test_a_plan_of_another_type_is_refused_under_the_name_of_the_plug_in():
    problem = f"scheduler '{__name__}:Failing': schedule returns a NoneType, where a StepPlan"
    with pytest.raises(PolicyError, match=problem):
        run(make_core(make_scheduler(f"{__name__}:Failing"), [(5, 3)]))


def test_a_class_is_found_without_being_made():
    assert find_scheduler("static") is Static
    assert isinstance(find_scheduler("vllm")().queue(), FcfsQueue)
