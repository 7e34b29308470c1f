"""The schedules of the cross-check that is committed: vLLM with arrivals by wall clock, made again."""

from pathlib import Path

from kvsim.experiments.serving.recorded import check_schedules

MEASURED = Path(__file__).parents[4] / "results" / "serving_vllm_cpu" / "measured"


def test_every_step_of_the_committed_crosscheck_is_vllm_s():
    found = check_schedules(MEASURED)
    assert len(found) == 9 and sum(one["steps"] for one in found) == 6410
    assert [one["difference"] for one in found] == [None] * 9
