"""Traces that a library user has in memory, by name or in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import kvsim
from kvsim.errors import ResultError, ScenarioError, TraceError
from kvsim.experiments.decode.sweep.whatif import origin_of
from kvsim.scenario.shipped import find_capture
from kvsim.traces.access.file import open_trace
from tests.test_library import SMALL, counts, share_among_processes


@pytest.fixture(scope="module")
def recorded() -> tuple[Any, kvsim.Trace]:
    """Return a shipped capture, and the same numbers as arrays."""
    file = open_trace(find_capture("smollm2-docs"))
    steps, layers = range(12), range(file.num_layers)
    context = np.array([file.context_tokens(step) for step in steps])
    num_pages = -(-int(context.max()) // 32)
    mass = np.zeros((len(steps), len(layers), num_pages), dtype=np.float32)
    quest = np.zeros_like(mass)
    for step in steps:
        for layer in layers:
            row = file.mass(step, layer, 32)[0]
            mass[step, layer, : row.size] = row
            quest[step, layer, : row.size] = file.scores(step, layer, "estimate:quest", 32)[0]
    return file, kvsim.Trace.from_arrays(mass, {"quest": quest}, page_tokens=32, context_tokens=context)


def test_a_trace_of_arrays_gives_what_its_file_gives(recorded: tuple[Any, kvsim.Trace]) -> None:
    options = {**SMALL, "trace.num_steps": 12}
    by_arrays = kvsim.run("smollm2_cpu", options, policies=["resident", "lru", "stream"], trace=recorded[1])
    by_file = kvsim.run("smollm2_cpu", options, policies=["resident", "lru", "stream"])
    assert counts(by_arrays) == counts(by_file)
    np.testing.assert_allclose(by_arrays.cells["tpot_p50_s"], by_file.cells["tpot_p50_s"], rtol=1e-12)
    assert by_arrays.manifest["accesses"] == {"arrays": recorded[1].digest}
    assert by_arrays.summary["scenario_hash"] != by_file.summary["scenario_hash"]
    with pytest.raises(ResultError, match="replays accesses that no file holds"):
        origin_of(by_arrays.run)


def test_a_trace_of_arrays_is_replayed_in_processes_and_for_a_batch(
    recorded: tuple[Any, kvsim.Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**SMALL, "run.batch": [1, 2]}
    alone = kvsim.run("smollm2_cpu", options, policies=["lru", "fifo"], trace=recorded[1])
    share_among_processes(monkeypatch)
    shared = kvsim.run("smollm2_cpu", options, policies=["lru", "fifo"], trace=recorded[1])
    pd.testing.assert_frame_equal(alone.cells, shared.cells)


def test_a_trace_may_be_named_or_a_file(tmp_path: Path) -> None:
    named = kvsim.run("smollm2_cpu", SMALL, policies=["lru"], trace="smollm2-code")
    by_file = kvsim.run("smollm2_cpu", SMALL, policies=["lru"], trace=find_capture("smollm2-code"))
    assert counts(named) == counts(by_file)


def test_arrays_are_for_decode(recorded: tuple[Any, kvsim.Trace]) -> None:
    with pytest.raises(
        ScenarioError, match="a trace of arrays is for scenarios of kind 'decode', found 'prefix-blocks'"
    ):
        kvsim.run("prefix_blocks", trace=recorded[1])


def uniform(**changes: Any) -> dict[str, Any]:
    return {"mass": np.full((3, 2, 4), 0.25), "page_tokens": 16} | changes


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (uniform(page_tokens=17), "page_tokens should be a multiple of 16, found 17"),
        (uniform(mass=np.full((3, 2, 4), 0.2)), r"the masses of a layer sum to 1, found 0\.2 off"),
        (uniform(mass=np.full((3, 4), 0.25)), r"mass should hold numbers by step, layer and page .* shape \[3, 4\]"),
        (uniform(mass=[["a"]]), "mass should hold numbers"),
        (uniform(mass=np.full((3, 2, 4), np.nan)), "mass holds a negative number or one that is not finite"),
        (uniform(scores={"q": np.ones((3, 2, 5))}), r"estimate:q has shape \[3, 1, 2, 5\], mass has \[3, 1, 2, 4\]"),
        (uniform(scores={"q": -np.ones((3, 2, 4))}), "estimate:q holds a negative number"),
        (uniform(context_tokens=[64, 65, 66]), "context_tokens should grow from 1 to at most 64"),
        (uniform(context_tokens=[64, 63, 64]), "context_tokens should grow"),
        (uniform(context_tokens=[64, 64]), "a whole number for each of 3 steps"),
        (uniform(context_tokens=[16, 32, 64]), "mass holds something past the context of a step"),
    ],
)
def test_arrays_that_are_no_trace_are_refused(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(TraceError, match=problem):
        kvsim.Trace.from_arrays(**arguments)


def test_a_page_size_that_arrays_do_not_have_is_refused_with_what_there_is(recorded: tuple[Any, kvsim.Trace]) -> None:
    with pytest.raises(
        TraceError, match="no channel 'estimate:quest' for pages of 64 tokens; there are mass, estimate:quest"
    ):
        kvsim.run("smollm2_cpu", {**SMALL, "page_tokens": 64}, policies=["lru"], trace=recorded[1])
