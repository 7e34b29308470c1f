"""Predictors that a simulation must beat: every request alone, and an M/D/1 queue of prompts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kvsim.experiments.serving.costs import Platform
from kvsim.experiments.serving.latency import TIMES, latency_figures
from kvsim.experiments.serving.run import run_cell
from kvsim.experiments.serving.scenario import Serving
from kvsim.experiments.serving.traffic import Traffic

_APART_S = 1e5
"""Longer than any request takes."""


def null_figures(cell: Serving, traffic: Traffic, platform: Platform) -> dict[str, dict[str, float]]:
    r"""Return figures of latency by predictors that know costs but no batches.

    ``alone``: each request has the engine for itself. ``m_d_1``: one server that takes as long for each as the mean
    prompt alone; all wait :math:`\rho S / 2 (1 - \rho)`. Absent where the load is 1 or more: the wait has no end.
    """
    count = len(traffic.requests)
    apart = replace(
        traffic.sessions, start_s=_APART_S * np.arange(count, dtype=np.float64), first=np.arange(count + 1), num_users=0
    )
    run = run_cell(cell, replace(traffic, sessions=apart), platform)
    alone = latency_figures(run.rows, run.gaps["itl_s"], run.gaps["count"], None)
    names = [name for name in TIMES if not name.startswith("queue")]
    figures = {"alone": {name: alone[name] for name in names}}
    start_s = traffic.sessions.start_s
    if start_s is None:
        return figures
    service_s = alone["ttft_mean_s"]
    load = service_s * (start_s.size - 1) / float(start_s.max() - start_s.min())
    if load >= 1:
        return figures
    wait_s = load * service_s / (2 * (1 - load))
    is_late = {name: name.startswith(("ttft", "e2e")) for name in names}
    figures["m_d_1"] = {name: alone[name] + (wait_s if is_late[name] else 0.0) for name in names}
    return figures
