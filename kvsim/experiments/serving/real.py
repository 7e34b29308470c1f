"""The requests of a traffic with token ids, as a real engine takes them, and what it did as a workload file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kvsim.engine.vllm import VllmTrace
from kvsim.errors import ScenarioError
from kvsim.experiments.serving.parameters import EngineParameters
from kvsim.experiments.serving.schedules.tokens import token_ids
from kvsim.experiments.serving.traffic import Traffic

Row = dict[str, Any]
"""A request of a workload file: id, segments, max_tokens, arrival_s."""


def rows_of(name: str, traffic: Traffic, parameters: EngineParameters) -> list[Row]:
    """Return the requests as rows of a workload file with their times of arrival, in the order of these.

    A full block of a prompt is a text of its own, numbered by the block's key: prompts share what the traffic says that
    they share.

    Raises
    ------
    ScenarioError
        If requests wait for the end of others, which only the simulation can do.
    """
    sessions, requests = traffic.sessions, traffic.requests
    if sessions.start_s is None or sessions.first.size - 1 != len(requests):
        raise ScenarioError(
            f"{name}: requests that follow the end of others are not measured: set arrivals.process to 'poisson', "
            "'gamma' or 'trace', and let each session have one turn"
        )
    chains = traffic.chains.lists()
    first_own = int(traffic.chains.keys.max(initial=-1)) + 1
    rows = []
    for place in np.argsort(sessions.start_s, kind="stable").tolist():
        full, rest = divmod(int(requests.prompt_tokens[place]), parameters.block_size)
        segments = [[key, parameters.block_size] for key in chains[place][:full]]
        segments += [[first_own + place, rest]] if rest else []
        rows.append({
            "id": f"r{place}",
            "segments": segments,
            "max_tokens": int(requests.max_tokens[place]),
            "arrival_s": float(sessions.start_s[place]),
        })  # fmt: skip
    return rows


def place_of(row: Mapping[str, Any]) -> int:
    """Return which request of the traffic a row is."""
    return int(row["id"][1:])


def with_tokens(rows: Sequence[Row]) -> list[Row]:
    """Return rows with the ids of their prompts in place of their segments."""
    return [
        {
            **{name: value for name, value in row.items() if name != "segments"},
            "token_ids": np.concatenate([token_ids(seed, length) for seed, length in row["segments"]]).tolist(),
        }
        for row in rows
    ]


def recorded_workload(name: str, rows: Sequence[Row], parameters: EngineParameters, trace: VllmTrace) -> bytes:
    """Return what an engine did as a workload file; `kvsim serving schedule FILE --compare` replays it."""
    steps_of = {request["id"]: request["arrival_step"] for request in trace["requests"]}
    content = {
        "name": name,
        "engine": parameters.model_dump(mode="json", exclude_none=True),
        "clock": "wall",
        "requests": [{**row, "arrival_step": steps_of[row["id"]]} for row in rows],
        "outputs": trace["outputs"],
        "steps": trace["steps"],
    }
    return gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0)
