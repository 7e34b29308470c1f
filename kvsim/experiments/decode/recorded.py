"""What a recorded first run shows of the next: the future for an oracle, and the mass that a dropping policy keeps."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np

from kvsim.errors import ScenarioError
from kvsim.experiments.decode.cells import Cell, measure_of, prompts_of
from kvsim.policies import Residency
from kvsim.policies.base import Policy, Setting
from kvsim.policies.future import is_oracle
from kvsim.scenario.decode import Scenario
from kvsim.scenario.digest import content_digest
from kvsim.sim.replay import Replay, ReplayFuture
from kvsim.traces import open_trace
from kvsim.types import FloatArray


def trace_name(scenario: Scenario) -> str:
    """Return the file name of the recorded trace that all policies and budgets of one context share.

    Its two digests are those of the selector, and of what else decides what is read: model, text, steps and chunks of
    prefill.
    """
    measure = measure_of(scenario)
    parts = (scenario.model.model_dump_json(), measure.text, measure.num_steps, scenario.run.prefill_chunk_tokens)
    return _named(scenario, f"-{content_digest(repr(parts), num_bytes=3)}")


def is_like(name: str, scenario: Scenario) -> bool:
    """Return whether a recorded trace has the name that `scenario` gives, but for model, text, steps and chunks.

    Results of 0.1 have no digest of those.
    """
    return re.fullmatch(_named(scenario, "@").replace(".", r"\.").replace("@", "(-[0-9a-f]{6})?"), name) is not None


def _named(scenario: Scenario, read_by: str) -> str:
    measure = measure_of(scenario)
    selector = content_digest(scenario.selector.model_dump_json(), num_bytes=3)
    packed = f"-{scenario.model.quantisation}" if scenario.model.quantisation else ""
    steps = measure.steps_of(scenario.run.batch)
    ends = f"-ends{content_digest(repr(steps), num_bytes=3)}" if steps is not None else ""
    prompts = prompts_of(scenario)
    unequal = f"-prompts{content_digest(repr(prompts), num_bytes=3)}" if len(set(prompts)) > 1 else ""
    context = f"{max(prompts)}x{scenario.run.batch}-page{scenario.page_tokens}"
    return f"{context}-{selector}{read_by}{packed}{unequal}{ends}.kvtrace"


def replay_of(cell: Cell, trace: bytes, num_steps: int) -> Replay:
    """Return what was recorded for a cell's context, ready to be replayed; the bytes stay in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recorded.kvtrace"
        path.write_bytes(trace)
        file = open_trace(path)  # stays mapped when the file's name is gone
    scenario = cell.scenario
    return Replay(
        file,
        cell.selector,
        channel=scenario.selector.channel,
        page_tokens=scenario.page_tokens,
        num_steps=num_steps,
    )


def hand_over(policy: Policy, cell: Cell, trace: bytes, num_steps: int, layers: range | None = None) -> None:
    """Hand an oracle what the run will read, of its device's `layers`; others get nothing.

    Selections do not depend on what moves, so those of the recorded run come again.
    """
    if is_oracle(policy):
        replay = replay_of(cell, trace, num_steps)
        replay = replay if layers is None else replay.of_layers(layers)
        policy.foresee(ReplayFuture(replay, everything=not replay.scores_pages))


def check_dropping(cell: Cell) -> None:
    """Refuse to measure a policy whose dropping changes the very scores that it drops by.

    Raises
    ------
    ScenarioError
        If it drops by score.
    """
    if cell.policy.attends == "resident" and cell.policy.reads_selection:
        raise ScenarioError(
            f"{cell.scenario.name}: policy {cell.choice.shown!r} drops pages by scores, and what it drops changes the "
            "scores to come: the one record that all policies of a context share is not its own; simulate it with "
            "`kvsim run`"
        )


def mass_recall_frac(cell: Cell, policy: Policy, setting: Setting, replay: Replay) -> FloatArray:
    """Return the share of full attention's mass in the pages that `policy` keeps, mean over layers, ``[num_steps]``."""
    selector = cell.scenario.selector
    residency = Residency(
        policy, setting, pinned_first_pages=selector.sink_pages, pinned_last_pages=selector.recent_pages
    )
    residency.start(replay.num_pages(replay.context_tokens(0) - 1))
    shares = np.zeros((replay.num_steps, replay.grid.num_layers))
    for step, layer in np.ndindex(shares.shape):
        reading = replay.at(step, layer, everything=True)
        decision = residency.decide(
            step=step, layer=layer, selected=reading.selected, scores=reading.scores, num_pages=reading.num_pages
        )
        shares[step, layer] = replay.attended_frac(step, layer, decision.selected).mean()
    means: FloatArray = shares.mean(axis=1)
    return means
