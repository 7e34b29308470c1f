"""The requests of the public traces, as both simulators take them, and what a step takes."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from kvsim.caches.blocks import ChainTable
from kvsim.policies.schedulers import RequestTable

BLOCK_TOKENS, HASH_TOKENS = 16, 512
STEP_S, TOKEN_S = 0.008, 1e-5
SEQUENCES, BUDGET_TOKENS = 256, 8192
MOST_TOKENS = 4096
AZURE = Path("azure-2023", "AzureLLMInferenceTrace_conv.csv.gz")
MOONCAKE = Path("mooncake", "conversation_trace.jsonl.gz")
AZURE_BLOCKS, MOONCAKE_BLOCKS = 7001, 30_001
"""Blocks of the pool, the null block included."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The requests of one trace."""

    name: str
    num_blocks: int
    arrival_s: list[float]
    requests: RequestTable
    chains: ChainTable
    num_rows: int
    """Rows of the file that were read for them."""


def read_azure(path: Path, num_requests: int) -> Traffic:
    """Return the first requests of the Azure trace that are short enough; no two share a prefix."""
    rows = []
    with gzip.open(path, "rt") as file:
        reader = csv.DictReader(file)
        for row in reader:
            prompt, output = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            if output and prompt + output <= MOST_TOKENS:
                rows.append((datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp(), prompt, output))
            if len(rows) == num_requests:
                break
        num_rows = reader.line_num - 1
    times, prompts, outputs = (np.array(column) for column in zip(*rows, strict=True))
    ends = np.cumsum((prompts + outputs) // BLOCK_TOKENS)
    chains = ChainTable(np.arange(ends[-1]), np.r_[0, ends])
    return _traffic_of("azure-conversation", AZURE_BLOCKS, times - times[0], prompts, outputs, chains, num_rows)


def read_mooncake(path: Path, num_requests: int | None) -> Traffic:
    """Return the requests of a Mooncake trace; outputs are new blocks."""
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file][:num_requests]
    prompts, outputs = (np.array([row[name] for row in rows]) for name in ("input_length", "output_length"))
    per_id = HASH_TOKENS // BLOCK_TOKENS
    next_key = per_id * (1 + max(max(row["hash_ids"]) for row in rows))
    chains = []
    for row, prompt, output in zip(rows, prompts, outputs, strict=True):
        known = (np.array(row["hash_ids"])[:, None] * per_id + np.arange(per_id)).ravel()[: prompt // BLOCK_TOKENS]
        num_new = (prompt + output) // BLOCK_TOKENS - known.size
        chains.append(np.r_[known, np.arange(next_key, next_key + num_new)])
        next_key += num_new
    table = ChainTable(np.concatenate(chains), np.r_[0, np.cumsum([chain.size for chain in chains])])
    times = np.array([row["timestamp"] * 1e-3 for row in rows])
    return _traffic_of("mooncake-conversation", MOONCAKE_BLOCKS, times, prompts, outputs, table, len(rows))


def _traffic_of(
    name: str, num_blocks: int, times: Any, prompts: Any, outputs: Any, chains: ChainTable, num_rows: int
) -> Traffic:
    places = np.arange(prompts.size)
    requests = RequestTable(
        prompt_tokens=prompts,
        max_tokens=outputs,
        stop_tokens=prompts + outputs,
        priority=np.zeros_like(places),
        arrival=places,
        rank=places,
    )
    return Traffic(
        name=name,
        num_blocks=num_blocks,
        arrival_s=times.tolist(),
        requests=requests,
        chains=chains,
        num_rows=num_rows,
    )
