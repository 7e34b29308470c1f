"""Runs inside an environment that has vLLM 0.32: takes commands as lines of JSON and answers each with one.

    start   model, engine (parameters under vLLM's names)     -> resolved: what vLLM made of them, and versions
    serve   requests, clock ("steps" or "wall")          -> steps, outputs, token_s, requests with steps of arrival

Nothing of vLLM is changed: its engine is given a subclass of its scheduler that looks before and after each call. A
request is a row of a workload file (`kvsim.experiments.serving.schedules.workload`) with `token_ids` for its segments.
This file imports nothing of kvsim, which is not installed there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, TextIO

from vllm import EngineArgs, SamplingParams, __version__
from vllm.config import KVEventsConfig
from vllm.distributed.kv_events import BlockRemoved, BlockStored
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.llm_engine import LLMEngine

SMALL_POOL_BYTES = 1 << 28
"""vLLM checks memory even where the number of blocks is stated: a small size passes, and the number wins."""

IDLE_S = 0.002


class Watched(Scheduler):  # type: ignore[misc]
    """vLLM's scheduler, which writes down what each call decided and how long it took."""

    latest: Watched

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        Watched.latest = self
        self.forget()

    def forget(self) -> None:
        """Begin a new record."""
        self.steps: list[dict[str, Any]] = []
        self.outputs: dict[str, list[int]] = {}
        self._names: dict[Any, tuple[str, int]] = {}
        self._num_named: dict[str, int] = {}
        self.kv_cache_manager.take_events()

    def add_request(self, request: Any) -> None:
        """Let a request arrive."""
        super().add_request(request)
        self._name_blocks(request)

    def schedule(self, *arguments: Any, **keywords: Any) -> Any:
        """Decide a step."""
        self._preempted: list[str] = []
        self._finished: list[str] = []
        before = {request.request_id for request in self.running}
        start_s = time.perf_counter()
        plan = super().schedule(*arguments, **keywords)
        end_s = time.perf_counter()
        tokens = plan.num_scheduled_tokens
        self.steps.append({
            "scheduled": list(map(list, tokens.items())),
            "admitted": [
                [request.request_id, request.num_computed_tokens - tokens[request.request_id]]
                for request in self.running
                if request.request_id not in before
            ],
            "preempted": sorted(self._preempted),
            **({"preempted_order": self._preempted} if len(self._preempted) > 1 else {}),
            **self._block_events(),
            "finished": [],
            "free_blocks": self.kv_cache_manager.block_pool.get_num_free_blocks(),
            "running": len(self.running),
            "waiting": len(self.waiting) + len(self.kv_holding_waiting),
            "schedule_s": end_s - start_s,
        })  # fmt: skip
        self._scheduled_s = time.perf_counter()
        return plan

    def update_from_output(self, plan: Any, output: Any) -> Any:
        """Take in what a step sampled."""
        start_s = time.perf_counter()
        answers = super().update_from_output(plan, output)
        end_s = time.perf_counter()
        self.steps[-1] |= {
            "execute_s": start_s - self._scheduled_s,
            "update_s": end_s - start_s,
            "finished": self._finished,
            "free_after": self.kv_cache_manager.block_pool.get_num_free_blocks(),
        }
        for name in plan.num_scheduled_tokens:
            if name in self.requests:
                self._name_blocks(self.requests[name])
        return answers

    def _preempt_request(self, request: Any, *arguments: Any, **keywords: Any) -> Any:
        self._preempted.append(request.request_id)
        return super()._preempt_request(request, *arguments, **keywords)

    def _free_request(self, request: Any, *arguments: Any, **keywords: Any) -> Any:
        self._finished.append(request.request_id)
        self.outputs[request.request_id] = list(request.output_token_ids)
        return super()._free_request(request, *arguments, **keywords)

    def _name_blocks(self, request: Any) -> None:
        """Name each chain of tokens by the first request that had it and the block's place there."""
        name = request.request_id
        for place in range(self._num_named.get(name, 0), len(request.block_hashes)):
            self._names.setdefault(maybe_convert_block_hash(request.block_hashes[place]), (name, place))
        self._num_named[name] = len(request.block_hashes)

    def _block_events(self) -> dict[str, list[list[Any]]]:
        evicted: list[list[Any]] = []
        stored: list[list[Any]] = []
        for event in self.kv_cache_manager.take_events() or ():
            if isinstance(event, BlockRemoved):
                evicted += [list(self._names[key]) for key in event.block_hashes]
            elif isinstance(event, BlockStored):
                for key in event.block_hashes:
                    name, place = self._names[key]
                    if stored and stored[-1][0] == name and stored[-1][1] + stored[-1][2] == place:
                        stored[-1][2] += 1
                    else:
                        stored.append([name, place, 1])
        return {"evicted": evicted, "stored": stored}


def start(model: str, parameters: dict[str, Any]) -> tuple[LLMEngine, dict[str, Any]]:
    """Return an engine, and what it made of the parameters."""
    caching = parameters.get("enable_prefix_caching", True)
    events = KVEventsConfig(enable_kv_cache_events=True, publisher="null")
    fixed = {
        "model": model,
        "dtype": "bfloat16",
        "enforce_eager": True,
        "skip_tokenizer_init": True,
        "seed": 0,
        "disable_log_stats": True,
        "prefix_caching_hash_algo": "sha256_cbor",
        "generation_config": "vllm",
        "scheduler_cls": Watched,
        "kv_cache_memory_bytes": SMALL_POOL_BYTES,
        **({"kv_events_config": events} if caching else {}),
    }
    engine = LLMEngine.from_engine_args(EngineArgs(**(fixed | parameters)))
    scheduler, cache = engine.vllm_config.scheduler_config, engine.vllm_config.cache_config
    return engine, {
        "vllm": __version__,
        "num_blocks": cache.num_gpu_blocks,
        "block_tokens": cache.block_size,
        "prefix_caching": cache.enable_prefix_caching,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "max_num_seqs": scheduler.max_num_seqs,
        "max_model_len": engine.vllm_config.model_config.max_model_len,
        "chunked_prefill": scheduler.enable_chunked_prefill,
        "policy": str(scheduler.policy),
        "async_scheduling": scheduler.async_scheduling,
        "reserve_full_isl": scheduler.scheduler_reserve_full_isl,
        "watermark": scheduler.watermark,
        "num_threads": os.environ.get("OMP_NUM_THREADS", ""),
    }


class Drive:
    """One run of requests through an engine."""

    def __init__(self, engine: LLMEngine, requests: list[dict[str, Any]], *, by_wall: bool) -> None:
        self._engine = engine
        self._scheduler = Watched.latest
        self._pending = [dict(request) for request in requests]
        self._by_wall = by_wall
        self._served: list[dict[str, Any]] = []
        self._token_s: dict[str, list[float]] = {}
        self._start_s = 0.0

    def run(self) -> dict[str, Any]:
        """Serve all requests and return what happened."""
        self._engine.reset_prefix_cache()
        self._scheduler.forget()
        self._start_s = time.perf_counter()
        while self._pending or self._scheduler.get_num_unfinished_requests():
            self._add(self._due())
            if self._scheduler.get_num_unfinished_requests():
                self._step()
            elif self._by_wall:
                wait_s = self._pending[0]["arrival_s"] - self._now_s()
                time.sleep(min(max(wait_s, 0.0), IDLE_S))
        outputs = {request["id"]: self._scheduler.outputs[request["id"]] for request in self._served}
        return {
            "steps": self._scheduler.steps,
            "outputs": outputs,
            "token_s": self._token_s,
            "requests": self._served,
        }

    def _now_s(self) -> float:
        return time.perf_counter() - self._start_s

    def _due(self) -> int:
        """Return how many of the pending requests arrive now; they are in the order of their arrival."""
        if self._by_wall:
            now_s = self._now_s()
            return sum(request["arrival_s"] <= now_s for request in self._pending)
        step = len(self._scheduler.steps)
        if self._pending and not self._scheduler.get_num_unfinished_requests():
            step = max(step, self._pending[0]["arrival_step"])
        return sum(request["arrival_step"] <= step for request in self._pending)

    def _add(self, count: int) -> None:
        for request in self._pending[:count]:
            sampling = SamplingParams(
                temperature=0.0, max_tokens=request["max_tokens"], ignore_eos=True, detokenize=False
            )
            prompt = {"prompt_token_ids": request.pop("token_ids")}
            request["arrival_step"] = len(self._scheduler.steps)
            place = float(len(self._served))
            self._engine.add_request(request["id"], prompt, sampling, arrival_time=place)
            self._served.append(request)
        del self._pending[:count]

    def _step(self) -> None:
        begin_s = self._now_s()
        answers = self._engine.step()
        end_s = self._now_s()
        self._scheduler.steps[-1] |= {"start_s": begin_s, "end_s": end_s}
        for answer in answers:
            self._token_s.setdefault(answer.request_id, []).append(end_s)


def main(commands: TextIO, answers: TextIO) -> None:
    """Answer commands until there are none left."""
    engine: LLMEngine | None = None
    for line in commands:
        command = json.loads(line)
        try:
            if command["do"] == "start":
                engine, answer = start(command["model"], command["engine"])
            else:
                assert engine is not None, "start comes first"
                answer = Drive(engine, command["requests"], by_wall=command["clock"] == "wall").run()
        except Exception as problem:  # whatever it is, the other side gets it and decides
            answer = {"error": f"{type(problem).__name__}: {problem}"}
        answers.write(json.dumps(answer, separators=(",", ":")) + "\n")
        answers.flush()


if __name__ == "__main__":
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever vLLM prints goes elsewhere
    main(sys.stdin, own)
