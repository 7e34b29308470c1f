"""The prompts of a prompt-cache scenario as tokens: documents with questions, or stand-ins for a trace's blocks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import ScenarioError, TraceError
from kvsim.experiments.prompt_cache.scenario import PromptsChoice
from kvsim.scenario.digest import content_digest
from kvsim.scenario.shipped import find_requests, find_tokens
from kvsim.traces.requests.base import Request
from kvsim.traces.requests.registry import open_requests
from kvsim.traces.tokens.stream import read_token_stream
from kvsim.types import IntArray

BLOCK_TOKENS = 16
"""Tokens of a block of the traces that are read."""


def prompts_of(choice: PromptsChoice, vocab_size: int, beside: Path | None) -> list[IntArray]:
    """Return the prompts of a scenario in the order sent, the same for simulator and engine.

    Raises
    ------
    TraceError
        If the stream or trace cannot be read or is too short.
    """
    if choice.trace is not None:
        prompts = _of_trace(choice, vocab_size, find_requests(choice.trace, beside))
    else:
        assert choice.stream is not None
        prompts = _of_stream(choice, find_tokens(choice.stream, beside))
    return [prompt[: choice.max_tokens] for prompt in prompts]


def digest_of(prompts: Sequence[IntArray]) -> str:
    """Return a digest of prompts: equal digests, equal reuse."""
    return content_digest(*(part for prompt in prompts for part in (np.int64(prompt.size).tobytes(), prompt)))


def check_vocabulary(choice: PromptsChoice, prompts: Sequence[IntArray], vocab_size: int) -> None:
    """Refuse prompts that a model cannot be given; a simulation asks only which tokens are equal.

    Raises
    ------
    ScenarioError
        If a token is none of the model's.
    """
    largest = max(int(prompt.max()) for prompt in prompts)
    if largest >= vocab_size:
        raise ScenarioError(
            f"token {largest} is none of the model's {vocab_size}: prompts.stream = {choice.stream!r} was made with "
            "another tokenizer; take a stream of the model's own"
        )


def _of_stream(choice: PromptsChoice, path: Path) -> list[IntArray]:
    """Return a system prompt, a document drawn by its popularity and a question for each request."""
    tokens = read_token_stream(path).tokens
    needed = choice.system_tokens + choice.documents * choice.document_tokens + choice.num_requests * choice.own_tokens
    if tokens.size < needed:
        raise TraceError(path, f"{tokens.size:,} tokens; the prompts need {needed:,}")
    sizes = (choice.system_tokens, choice.documents * choice.document_tokens, choice.num_requests * choice.own_tokens)
    system, documents, questions = np.split(tokens[:needed], np.cumsum(sizes)[:-1])
    weights = np.arange(1, choice.documents + 1, dtype=np.float64) ** -choice.popularity
    drawn = np.random.default_rng(choice.seed).choice(choice.documents, choice.num_requests, p=weights / weights.sum())
    about = documents.reshape(choice.documents, choice.document_tokens)
    own = questions.reshape(choice.num_requests, choice.own_tokens)
    return [np.concatenate([system, about[place], question]) for place, question in zip(drawn, own, strict=True)]


def _of_trace(choice: PromptsChoice, vocab_size: int, path: Path) -> list[IntArray]:
    """Return tokens for the blocks of each request: a block's are the same wherever it occurs; tails are their own."""
    rows = (request for request in open_requests(path, "full-blocks").requests if request.input_tokens)
    first = itertools.islice(rows, choice.num_requests)
    prompts = [_stand_ins(request, number, vocab_size) for number, request in enumerate(first)]
    if len(prompts) < choice.num_requests:
        raise TraceError(path, f"{len(prompts)} prompts with tokens; prompts.num_requests is {choice.num_requests}")
    return prompts


def _stand_ins(request: Request, number: int, vocab_size: int) -> IntArray:
    names = np.array(request.blocks or (), dtype=np.uint64)
    tail = request.input_tokens - names.size * BLOCK_TOKENS
    places = np.arange(BLOCK_TOKENS, dtype=np.uint64)
    blocks = _mixed(names[:, None] * np.uint64(BLOCK_TOKENS) + places).ravel()
    own = _mixed(np.uint64(2**62 + number * 2**32) + np.arange(max(tail, 0), dtype=np.uint64))
    tokens: IntArray = (np.concatenate([blocks, own]) % np.uint64(vocab_size)).astype(np.int64)
    return tokens[: request.input_tokens]


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return splitmix64's last step of each value: neighbours become strangers."""
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(30))
    mixed = mixed * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
