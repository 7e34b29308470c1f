"""Times vLLM's own steps on this machine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kvsim.calibration.serving.fit import error_frac, fit_serving
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
    parts: list[StepSamples] = []
    with VllmProcess(model, ENGINE, num_threads=num_threads) as vllm:
        vllm.serve(requests_of(bursts[-1], random), clock="steps")  # the first run of a process is slower
        for number in range(NUM_ROUNDS * len(bursts)):
            if progress is not None:
                progress("steps of vLLM", number, NUM_ROUNDS * len(bursts))
            requests = requests_of(bursts[number % len(bursts)], random)
            trace = vllm.serve(requests, clock="steps")
            parts.append(step_samples(trace["steps"], {row["id"]: len(row["token_ids"]) for row in requests}))
        engine = f"vLLM {vllm.resolved['vllm']}, {num_threads} thread{'s' if num_threads > 1 else ''}"
    source = f"{engine}: {sum(part.host_s.size for part in parts)} steps of random schedules, run step by step"
    costs = fit_serving(StepSamples.together(parts), engine, source)
    return costs.model_copy(update={"error_frac": error_frac(parts, engine, source)})
