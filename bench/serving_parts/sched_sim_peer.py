"""sched-sim (PyPI, Apache-2.0) on the same requests: its own event loop and scheduler, our pool, limits and clock."""

from __future__ import annotations

from importlib.metadata import version

from sched_sim.core.event_engine import Simulator
from sched_sim.core.request import Request
from sched_sim.hardware.latency_model import RooflineLatencyModel
from sched_sim.hardware.profile import HardwareProfile
from sched_sim.memory.block_manager import BlockManager
from sched_sim.memory.preemption import PreemptionHandler
from sched_sim.schedulers.chunked import ChunkedPrefillScheduler

from serving_parts.traffic import BLOCK_TOKENS, BUDGET_TOKENS, SEQUENCES, STEP_S, TOKEN_S, Traffic

NAME = f"sched-sim {version('sched-sim')}"


class _Clock(RooflineLatencyModel):
    """The clock of the benchmark in place of a roofline."""

    def compute_prefill_step_time(self, num_prefill_tokens: int) -> float:
        return STEP_S + TOKEN_S * num_prefill_tokens

    def compute_decode_step_time(self, batch_size: int, total_context_tokens: int) -> float:  # noqa: ARG002
        return STEP_S + TOKEN_S * batch_size

    def compute_mixed_step_time(
        self,
        num_prefill_tokens: int,
        num_decode_requests: int,
        total_decode_context_tokens: int,  # noqa: ARG002
    ) -> float:
        return STEP_S + TOKEN_S * (num_prefill_tokens + num_decode_requests)


class SchedSim:
    """One run of the peer: chunked prefill under the token budget, preemption by recomputation, no prefix cache."""

    def __init__(self, traffic: Traffic) -> None:
        hardware = HardwareProfile()
        blocks = BlockManager(hardware, BLOCK_TOKENS)
        blocks.total_gpu_blocks = traffic.num_blocks - 1
        blocks.free_gpu_blocks = list(range(traffic.num_blocks - 1))
        clock = _Clock(hardware)
        scheduler = ChunkedPrefillScheduler(blocks, clock, PreemptionHandler(blocks, clock), SEQUENCES, BUDGET_TOKENS)
        self._simulator = Simulator(hardware, scheduler, block_size=BLOCK_TOKENS)
        table = traffic.requests
        self._requests = [
            Request(request_id=str(place), arrived_at=at_s, prompt_tokens=prompt, output_tokens=output)
            for place, (at_s, prompt, output) in enumerate(
                zip(traffic.arrival_s, table.prompt_tokens.tolist(), table.max_tokens.tolist(), strict=True)
            )
        ]

    def serve(self) -> tuple[int, int, float]:
        """Return the steps, the tokens computed and the simulated seconds of serving all requests."""
        simulator = self._simulator
        simulator.submit_workload(self._requests)
        simulator.run()
        unfinished = [request.request_id for request in self._requests if request.completed_at is None]
        if unfinished:
            raise RuntimeError(f"{NAME} leaves {len(unfinished)} requests unserved, {unfinished[0]} the first")
        records = simulator.iteration_records
        return len(records), sum(one.prefill_tokens + one.decode_count for one in records), records[-1].end_time
