"""Stands in for a Python with vLLM: speaks the protocol of `kvsim.engine.vllm.inside`, with kvsim's own scheduler.

Times are those of a clock that takes 10 ms a step and 0.1 ms a token. Started as ``stand_in SCRIPT``, like a Python.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np

from kvsim.caches.blocks import ChainKeys, ChainTable
from kvsim.experiments.serving.core import make_core
from kvsim.experiments.serving.parameters import EngineParameters
from kvsim.policies.schedulers import RequestTable

STEP_S, TOKEN_S, HOST_S = 0.01, 1e-4, 1e-3


def start(command: dict[str, Any]) -> dict[str, Any]:
    if command["model"] == "dies":
        sys.exit("first line\nno such model")
    if command["model"] == "refuses":
        raise ValueError("it does\nnot like this")
    parameters = EngineParameters.model_validate(command["engine"])
    return {
        "vllm": "0.32.0",
        "num_blocks": parameters.num_gpu_blocks_override,
        "block_tokens": parameters.block_size,
        "num_threads": os.environ["OMP_NUM_THREADS"],
        "async_scheduling": False,
        **{name: getattr(parameters, name) for name in ("max_num_batched_tokens", "max_num_seqs", "max_model_len")},
    }


def serve(parameters: EngineParameters, requests: list[dict[str, Any]], *, by_wall: bool) -> dict[str, Any]:
    keys = ChainKeys(parameters.block_size)
    outputs = [[10 + (7 * place + number) % 1000 for number in range(row["max_tokens"])]
               for place, row in enumerate(requests)]  # fmt: skip
    chains = [keys.add(np.array([*row["token_ids"], *ids])) for row, ids in zip(requests, outputs, strict=True)]
    prompts = np.array([len(row["token_ids"]) for row in requests])
    counts = np.array([row["max_tokens"] for row in requests])
    places = np.arange(prompts.size)
    table = RequestTable(
        prompt_tokens=prompts, max_tokens=counts, stop_tokens=prompts + counts, priority=0 * places, arrival=places,
        rank=np.argsort(np.argsort(np.array([row["id"] for row in requests], dtype=object))),
    )  # fmt: skip
    core = make_core(parameters, table, ChainTable.of(chains), compiled=False)
    names = [(requests[place]["id"], index) for place, index in keys.first_seen]
    steps: list[dict[str, Any]] = []
    token_s: dict[str, list[float]] = {}
    now_s, arrived = 0.0, 0
    while arrived < len(requests) or core.num_unfinished:
        due = [
            row["arrival_s"] <= now_s if by_wall else row["arrival_step"] <= len(steps) for row in requests[arrived:]
        ]
        if not core.num_unfinished and not any(due):
            now_s = max(now_s, requests[arrived].get("arrival_s", 0.0))
            due = [True]
        for row in requests[arrived : arrived + sum(due)]:
            core.add(arrived)
            row["arrival_step"] = len(steps)
            arrived += 1
        step = core.schedule()
        begin_s, free, running, waiting = now_s, core.num_free_blocks, core.num_running, core.num_waiting
        now_s += HOST_S + STEP_S + TOKEN_S * step.work.tokens
        outcome = core.update()
        for place in outcome.sampled:
            token_s.setdefault(requests[place]["id"], []).append(now_s)
        steps.append({
            "scheduled": [[requests[place]["id"], tokens] for place, tokens in step.scheduled],
            "admitted": [[requests[place]["id"], hits] for place, hits in step.admitted],
            "preempted": sorted(requests[place]["id"] for place in step.preempted),
            "evicted": [list(names[key]) for key in step.evicted],
            "finished": [requests[place]["id"] for place in outcome.finished],
            "free_blocks": free, "free_after": core.num_free_blocks, "running": running, "waiting": waiting,
            "schedule_s": HOST_S, "execute_s": now_s - begin_s - HOST_S, "update_s": 0.0,
            "start_s": begin_s, "end_s": now_s,
        })  # fmt: skip
    served = [{name: value for name, value in row.items() if name != "token_ids"} for row in requests]
    ids = {row["id"]: ids for row, ids in zip(requests, outputs, strict=True)}
    return {"steps": steps, "outputs": ids, "token_s": token_s, "requests": served}


def main() -> None:
    parameters: EngineParameters | None = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["do"] == "start":
                answer = start(command)
                parameters = EngineParameters.model_validate(command["engine"])
            else:
                assert parameters is not None
                answer = serve(parameters, command["requests"], by_wall=command["clock"] == "wall")
        except ValueError as problem:
            answer = {"error": f"{type(problem).__name__}: {problem}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
