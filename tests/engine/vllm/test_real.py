"""vLLM itself, where an environment with it is at hand: the adapter, and schedules equal to ours in every step."""

import json

import pytest

from kvsim.engine.vllm import VllmProcess
from kvsim.experiments.serving.parameters import EngineParameters
from kvsim.experiments.serving.real import recorded_workload, with_tokens
from kvsim.experiments.serving.schedules.compare import first_difference
from kvsim.experiments.serving.schedules.replay import replay
from kvsim.experiments.serving.schedules.workload import read_workload

KNOBS = EngineParameters(
    block_size=32,
    max_model_len=512,
    max_num_batched_tokens=128,
    max_num_seqs=6,
    num_gpu_blocks_override=22,
)


@pytest.mark.model
@pytest.mark.parametrize("clock", ["steps", "wall"])
def test_vllm_schedules_every_step_as_we_do(vllm_python, model_path, tmp_path, clock):
    rows = [
        {
            "id": f"r{place}",
            "segments": [[place % 3, 64], [100 + place, 10 + 17 * place]],
            "max_tokens": 30,
            "arrival_s": 0.05 * place,
            **({"arrival_step": 2 * place} if clock == "steps" else {}),
        }
        for place in range(14)
    ]
    with VllmProcess(
        str(model_path), KNOBS.model_dump(exclude={"kv_cache_memory_bytes", "max_num_active_seqs"})
    ) as vllm:
        traces = [vllm.serve(with_tokens(rows), clock=clock) for _ in range(2)]
    for number, trace in enumerate(traces):
        file = tmp_path / f"{number}.json.gz"
        file.write_bytes(recorded_workload("test", rows, KNOBS, trace))
        workload = read_workload(file)
        assert first_difference(workload, replay(workload)) is None
        assert sum(len(step["preempted"]) for step in trace["steps"]) > 0
        assert all(len(trace["token_s"][row["id"]]) == 30 for row in rows)
    json.dumps(traces)
