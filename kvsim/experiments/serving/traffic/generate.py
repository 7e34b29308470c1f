"""Requests made up: sessions whose turns grow, with lengths from distributions."""

from __future__ import annotations

import numpy as np

from kvsim.errors import ScenarioError
from kvsim.experiments.serving.parameters import SchedulingParameters
from kvsim.experiments.serving.scenario import Generated, Lengths
from kvsim.experiments.serving.traffic.turns import Numbers, Turns, chain_table
from kvsim.types import BoolArray, FloatArray, IntArray


def generate_turns(choice: Generated, parameters: SchedulingParameters, random: np.random.Generator) -> Turns:
    """Return the requests of every session; a session ends early where the engine does not take its next turn.

    A prompt that the engine does not take together with its outputs is cut.

    Raises
    ------
    ScenarioError
        If outputs alone are longer than the engine takes.
    """
    sessions = choice.num_sessions
    num_turns = draw_lengths(choice.turns, sessions, random)
    first_prompts = draw_lengths(choice.prompt, sessions, random)
    most_turns = int(num_turns.max())
    outputs = draw_lengths(choice.output, sessions * most_turns, random).reshape(sessions, most_turns)
    added = draw_lengths(choice.turn or Lengths(mean=1.0), sessions * most_turns, random)
    if int(outputs.max()) >= parameters.max_model_len:
        raise ScenarioError(
            f"generated.output: one is {int(outputs.max())} tokens, and engine.max_model_len is "
            f"{parameters.max_model_len}: raise that, or set generated.output.most"
        )
    cut = np.minimum(first_prompts, parameters.max_model_len - outputs[:, 0])
    prompts = _growing(cut, added.reshape(sessions, most_turns), outputs)
    fits = (prompts + outputs <= parameters.max_model_len) & (np.arange(most_turns) < num_turns[:, None])
    first = np.concatenate([[0], np.cumsum(fits.sum(axis=1))])
    return Turns(
        first=first,
        prompt_tokens=prompts[fits],
        output_tokens=outputs[fits],
        chains=chain_table(_chains(choice, parameters.block_size, prompts, prompts + outputs, fits)),
        num_cut=int((cut < first_prompts).sum()),
    )


def draw_lengths(choice: Lengths, count: int, random: np.random.Generator) -> IntArray:
    """Return so many lengths of 1 or more."""
    drawn = draw(choice.mean, choice.cv, count, random, distribution=choice.distribution)
    most = np.inf if choice.most is None else choice.most
    lengths: IntArray = np.clip(np.rint(drawn), 1, most).astype(np.int64)
    return lengths


def draw(mean: float, cv: float, count: int, random: np.random.Generator, *, distribution: str = "gamma") -> FloatArray:
    """Return so many numbers with this mean and coefficient of variation."""
    if cv == 0 or mean == 0:
        return np.full(count, float(mean))
    if distribution == "gamma":
        return random.gamma(1 / cv**2, mean * cv**2, count)
    variance = np.log1p(cv**2)
    return random.lognormal(np.log(mean) - variance / 2, np.sqrt(variance), count)


def _growing(first: IntArray, added: IntArray, outputs: IntArray) -> IntArray:
    """Return the prompt of each turn, ``[num_sessions, turns]``: the one before, its answer, and what is added."""
    grows = added + np.pad(outputs, ((0, 0), (1, 0)))[:, :-1]
    grows[:, 0] = first
    prompts: IntArray = np.cumsum(grows, axis=1).astype(np.int64)
    return prompts


def _chains(choice: Generated, block_tokens: int, prompts: IntArray, ends: IntArray, fits: BoolArray) -> list[IntArray]:
    """Return the keys of each turn; the turns of a session have one text, so each begins as the one before."""
    shared_blocks = choice.shared_tokens // block_tokens
    own = Numbers(choice.shared_by * shared_blocks)
    chains = []
    for session in range(choice.num_sessions):
        totals = ends[session][fits[session]] // block_tokens
        shared = np.arange(min(shared_blocks, int(prompts[session, 0]) // block_tokens))
        text = np.concatenate(
            [shared + (session % choice.shared_by) * shared_blocks, own.take(max(int(totals.max()) - shared.size, 0))]
        )
        chains += [text[:total] for total in totals.tolist()]
    return chains
