"""Steps that vLLM recorded, as amounts of work with their times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvsim.profile.serving import PARTS
from kvsim.types import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSamples:
    """The steps of some runs."""

    amounts: FloatArray
    """``[num_steps, len(PARTS)]``: what the tables of `ServingCosts` count, of the host requests."""
    host_s: FloatArray
    """Everything of a step but the forward pass with its sampling."""
    forward_s: FloatArray

    @property
    def step_s(self) -> FloatArray:
        """Seconds of each step, host and forward together."""
        return self.host_s + self.forward_s

    @staticmethod
    def together(parts: Sequence[StepSamples]) -> StepSamples:
        """Return the steps of all parts."""
        return StepSamples(
            amounts=np.concatenate([part.amounts for part in parts]),
            host_s=np.concatenate([part.host_s for part in parts]),
            forward_s=np.concatenate([part.forward_s for part in parts]),
        )


def step_samples(steps: Sequence[Mapping[str, Any]], prompt_tokens: Mapping[str, int]) -> StepSamples:
    """Return what each step that did anything had to do, and how long it took.

    Parameters
    ----------
    steps
        As `kvsim.engine.vllm` records them, from the first step of an idle engine on.
    prompt_tokens
        Of each request by its id.
    """
    computed: dict[str, int] = {}
    known = dict(prompt_tokens)
    rows, host_s, forward_s = [], [], []
    for step in steps:
        computed |= dict(step["admitted"])
        row = dict.fromkeys(PARTS, 0)
        for name, tokens in step["scheduled"]:
            before = computed[name]
            computed[name] = after = before + tokens
            row["host"] += 1
            row["tokens"] += tokens
            row["keys"] += after
            row["pairs"] += tokens * before + tokens * (tokens + 1) // 2
            if after == known[name]:
                row["sampled"] += 1
                known[name] += 1
        if row["tokens"]:
            rows.append([row[name] for name in PARTS])
            forward_s.append(step["execute_s"])
            host_s.append(step["end_s"] - step["start_s"] - step["execute_s"])
    return StepSamples(amounts=np.array(rows, dtype=float), host_s=np.array(host_s), forward_s=np.array(forward_s))
