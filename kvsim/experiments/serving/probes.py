"""Random requests on a real engine between the runs of a measurement: their steps say how fast the machine is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.calibration.serving.plan import Burst, requests_of
from kvsim.calibration.serving.samples import StepSamples, step_samples
from kvsim.experiments.serving.parameters import EngineParameters
from kvsim.profile.serving import PARTS

Serve = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]
"""Serves requests that arrive by steps, and returns what the engine recorded."""

_SEED = 20_261_129


class Probes:
    """The same random requests, served again and again.

    Parameters
    ----------
    parameters
        Of the engine: requests are short enough for it.
    serve
        The engine.
    """

    def __init__(self, parameters: EngineParameters, serve: Serve) -> None:
        longest = parameters.max_model_len
        burst = Burst(
            num_requests=16,
            prompt_tokens=(min(16, longest // 4), min(400, longest // 2)),
            output_tokens=(min(4, longest // 4), min(60, longest // 4)),
            num_steps=40,
        )
        self._requests = requests_of(burst, np.random.default_rng(_SEED))
        self._prompt_tokens = {row["id"]: len(row["token_ids"]) for row in self._requests}
        self._serve = serve

    def steps(self) -> StepSamples:
        """Serve the requests once and return what each step had to do and took."""
        return step_samples(self._serve(self._requests)["steps"], self._prompt_tokens)


def probe_rows(before: StepSamples, after: StepSamples) -> dict[str, NDArray[Any]]:
    """Return the steps of the probes around one run as columns."""
    both = StepSamples.together([before, after])
    return {
        "is_after": np.arange(both.host_s.size) >= before.host_s.size,
        "time_s": both.step_s,
        **dict(zip(PARTS, both.amounts.astype(np.int64).T, strict=True)),
    }
