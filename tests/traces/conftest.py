from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from kvsim.scenario.shapes import ModelShape
from kvsim.traces import TraceHeader, TraceWriter, channel_of

Steps: TypeAlias = list[dict[str, np.ndarray]]

SHAPE = ModelShape(
    num_layers=3,
    hidden_size=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    intermediate_size=16,
    vocab_size=10,
    tied_embeddings=True,
    dtype="fp16",
)


def _header(**changes: Any) -> TraceHeader:
    max_tokens = changes.get("max_tokens", 80)
    fields: dict[str, Any] = {
        "model": "tiny",
        "shape": SHAPE,
        "text_sha256": "0" * 64,
        "compute_dtype": "fp32",
        "recorded": "teacher-forced",
        "num_layers": 3,
        "num_sequences": 2,
        "prompt_tokens": (70, 40),
        "max_tokens": max_tokens,
        "channels": tuple(channel_of(name, max_tokens) for name in ("mass", "estimate:quest@32", "selection@32")),
        "recipe": "made by a test",
    }
    return TraceHeader(**(fields | changes))


def _step(header: TraceHeader, context: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    values = {}
    for channel in header.channels:
        pages = -(-context // channel.page_tokens)
        own = np.arange(pages.max()) < pages[:, None, None]
        row = rng.random((header.num_sequences, header.num_layers, pages.max())) * own
        values[channel.name] = row > 0.5 if channel.dtype == "bits" else row / row.sum(axis=-1, keepdims=True)
    return values


def _write(path: Path, header: TraceHeader, num_steps: int = 4, seed: int = 0) -> Steps:
    rng = np.random.default_rng(seed)
    written = []
    with TraceWriter(path, header) as writer:
        for step in range(num_steps):
            context = np.array(header.prompt_tokens) + step + 1
            written.append(_step(header, context, rng))
            writer.append(context, written[-1])
    return written


@pytest.fixture(scope="session")
def header_of() -> Callable[..., TraceHeader]:
    """Makes a header of a tiny model, with the fields given changed."""
    return _header


@pytest.fixture(scope="session")
def write_random() -> Callable[..., Steps]:
    """Writes a trace of random numbers and returns what was written."""
    return _write


@pytest.fixture(scope="session")
def step_of() -> Callable[..., dict[str, np.ndarray]]:
    """Makes the random numbers of one step."""
    return _step
