"""Times vLLM's own steps on this machine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kvsim.calibration.serving.errors import run_errors
from kvsim.calibration.serving.fit import fit_serving
from kvsim.calibration.serving.plan import ENGINE, FULL, NUM_ROUNDS, QUICK, requests_of
from kvsim.calibration.serving.samples import StepSamples, step_samples
from kvsim.engine.vllm import VllmProcess
from kvsim.profile.serving import ServingCosts

_SEED = 20_261_128


def calibrate_serving(
    model: str,
    *,
    quick: bool = False,
    num_threads: int = 1,
    progress: Callable[[str, float, float], None] | None = None,
) -> ServingCosts:
    """Return what a step of vLLM costs with this model on this machine.

    Parameters
    ----------
    model
        Folder of a model in safetensors.
    quick
        Fewer and shorter runs.
    progress
        Called with the stage, how much of it is done, and how much there is.

    Raises
    ------
    KvsimError
        If vLLM is not there or does not start.
    """
    bursts, random = QUICK if quick else FULL, np.random.default_rng(_SEED)
    rounds: list[list[StepSamples]] = [[] for _ in range(NUM_ROUNDS)]
    with VllmProcess(model, ENGINE, num_threads=num_threads) as vllm:
        vllm.serve(requests_of(bursts[-1], random), clock="steps")  # the first run of a process is slower
        for number in range(NUM_ROUNDS * len(bursts)):
            if progress is not None:
                progress("steps of vLLM", number, NUM_ROUNDS * len(bursts))
            requests = requests_of(bursts[number % len(bursts)], random)
            trace = vllm.serve(requests, clock="steps")
            samples = step_samples(trace["steps"], {row["id"]: len(row["token_ids"]) for row in requests})
            rounds[number // len(bursts)].append(samples)
        engine = f"vLLM {vllm.resolved['vllm']}, {num_threads} thread{'s' if num_threads > 1 else ''}"
    together = StepSamples.together([samples for parts in rounds for samples in parts])
    source = f"{engine}: {together.host_s.size} steps of random schedules, run step by step"
    return fit_serving(together, engine, source).model_copy(update=run_errors(rounds))
