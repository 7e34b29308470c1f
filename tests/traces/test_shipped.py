"""The captures that ship: whole, as large and as long as they are said to be, and told of in docs/captures.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kvsim.scenario.shapes import SHAPES
from kvsim.scenario.shipped import shipped
from kvsim.traces.access.file import open_trace

DOCS = Path(__file__).resolve().parents[2] / "docs" / "captures.md"
CAPTURES = shipped("captures", ".kvtrace")


def test_three_captures_ship_in_less_than_20_mb():
    assert sorted(CAPTURES) == ["smollm2-agent", "smollm2-code", "smollm2-docs"]
    assert sum(path.stat().st_size for path in CAPTURES.values()) < 20_000_000


@pytest.mark.parametrize("name", CAPTURES)
def test_a_shipped_capture_is_real_text_at_4k_tokens_or_more_and_its_recipe_is_in_the_docs(name):
    trace = open_trace(CAPTURES[name], verify=True)
    header = trace.header
    assert header.recorded == "teacher-forced"
    assert header.shape.model_copy(update={"dtype": "bf16"}) == SHAPES["smollm2-135m"]
    assert min(header.prompt_tokens) >= 4096
    assert trace.num_steps >= 128
    assert header.recipe in DOCS.read_text()
    assert str(header.text_sha256) in DOCS.read_text()


@pytest.mark.parametrize("name", CAPTURES)
def test_scores_of_a_shipped_capture_sum_to_one_but_for_what_nothing_speaks_of(name):
    trace = open_trace(CAPTURES[name])
    for step in (0, 31, trace.num_steps - 1):
        for layer in range(trace.num_layers):
            assert trace.mass(step, layer, 16).sum(dtype=np.float64) == pytest.approx(1, abs=1e-3)
            for channel, page_tokens in (("estimate:quest", 32), ("estimate:quest", 64), ("speculate:next-layer", 32)):
                total = trace.scores(step, layer, channel, page_tokens).sum(dtype=np.float64)
                expected = 0 if channel == "speculate:next-layer" and layer == 0 else 1
                assert total == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("name", CAPTURES)
def test_deep_layers_of_a_shipped_capture_have_a_sink_and_early_ones_none(name):
    trace = open_trace(CAPTURES[name], verify=False)
    sink = [np.mean([trace.mass(step, layer, 16)[0, 0] for step in range(0, 128, 8)]) for layer in range(30)]
    assert np.mean(sink[12:]) > 0.3
    assert np.mean(sink[:12]) < 0.05
