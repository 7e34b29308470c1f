"""The client of a vLLM process, spoken to by a stand-in."""

from pathlib import Path

import pytest

from kvsim.engine.vllm import VllmProcess, find_python
from kvsim.errors import KvsimError

ENGINE = {
    "block_size": 16,
    "max_model_len": 256,
    "max_num_batched_tokens": 64,
    "max_num_seqs": 4,
    "num_gpu_blocks_override": 40,
}
REQUESTS = [{"id": f"r{place}", "token_ids": [place] * 30, "max_tokens": 3, "arrival_step": 0} for place in range(3)]


def test_a_process_is_started_asked_and_ended(stand_in):
    with VllmProcess("model", ENGINE, num_threads=2) as vllm:
        assert vllm.resolved["num_blocks"] == 40 and vllm.resolved["num_threads"] == "2"
        trace = vllm.serve(REQUESTS, clock="steps")
    assert trace["steps"][0]["scheduled"] == [["r0", 30], ["r1", 30], ["r2", 4]]
    assert {name: len(times) for name, times in trace["token_s"].items()} == {"r0": 3, "r1": 3, "r2": 3}
    assert vllm._process.poll() is not None


@pytest.mark.parametrize(
    ("model", "problem"),
    [("dies", "vLLM ended: first line / no such model"), ("refuses", "vLLM: ValueError: it does not like this")],
)
def test_what_goes_wrong_in_the_process_is_one_line(stand_in, model, problem):
    with pytest.raises(KvsimError) as refusal:
        VllmProcess(model, ENGINE)
    assert str(refusal.value) == problem


def test_a_missing_environment_names_the_command_that_makes_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KVSIM_VLLM", "/no/such/python")
    with pytest.raises(KvsimError, match=r"KVSIM_VLLM=/no/such/python is no file: run `make vllm`") as refusal:
        find_python()
    assert "\n" not in str(refusal.value)
    monkeypatch.delenv("KVSIM_VLLM")
    python = tmp_path / ".venv-vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert find_python() == Path(python)
