"""The calls of the embedding that a scenario makes, in order: what simulator and engine both carry out."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kvsim.caches import CACHE_POLICIES
from kvsim.caches.rows import RowCacheState, distinct
from kvsim.errors import ScenarioError
from kvsim.experiments.base import shape_of
from kvsim.experiments.embedding_rows.bigrams import Bigrams, fit_bigrams
from kvsim.experiments.embedding_rows.scenario import EmbeddingRows, StreamChoice
from kvsim.scenario.regular_files import read_text
from kvsim.scenario.shipped import find_tokens, near
from kvsim.traces.tokens.stream import StreamHeader, is_token_stream, read_token_stream, zipf_exponent, zipf_tokens
from kvsim.traces.tokens.text import tokens_of
from kvsim.types import BoolArray, IntArray

_NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The part of a stream that requests are made of, and what the other part teaches."""

    header: StreamHeader
    learnt: IntArray
    """Tokens of the first part."""
    tokens: IntArray
    zipf_exponent: float
    """Of the whole stream as it was read."""
    is_drawn: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedCall:
    """One call of the model, and so of its embedding."""

    tokens: IntArray
    """``[batch, tokens]``."""
    request: int
    """Number of the batch of requests."""
    step: int
    """0 is the prompt; others are single tokens."""
    cached_tokens: int
    """Of each sequence before this call."""
    ahead: IntArray
    """Tokens whose rows are fetched while the model computes this call's."""
    counts: bool = True
    """False: it only warms the cache."""
    is_fresh: bool = False
    """The cache is empty before this call."""


@functools.lru_cache(maxsize=4)
def served_of(choice: StreamChoice, vocab_size: int, beside: Path | None) -> Served:
    """Return the tokens of a scenario's stream.

    Raises
    ------
    TraceError
        If the stream cannot be read.
    ScenarioError
        If it has tokens that the model's vocabulary has not, or a text comes without a tokenizer.
    """
    header, tokens = _read(choice, beside)
    exponent = zipf_exponent(tokens, max(header.vocab_size, int(tokens.max()) + 1))
    if choice.drawn == "zipf":
        size = choice.drawn_tokens or tokens.size
        tokens = zipf_tokens(exponent, vocab_size=vocab_size, num_tokens=size, seed=choice.seed)
    elif int(tokens.max()) >= vocab_size:
        raise ScenarioError(
            f"stream.path {choice.path!r} has token {int(tokens.max())}, model.shape has {vocab_size} rows; "
            "set stream.drawn = 'zipf' to draw tokens like it for another vocabulary"
        )
    first = round(choice.train_frac * tokens.size)
    return Served(
        header=header,
        learnt=tokens[:first],
        tokens=tokens[first:],
        zipf_exponent=exponent,
        is_drawn=choice.drawn == "zipf",
    )


def requests_of(scenario: EmbeddingRows, served: Served, most: int | None = None) -> IntArray:
    """Return the requests in batches, ``[batches, batch, prompt_tokens + new_tokens]``: the stream, cut up.

    Raises
    ------
    ScenarioError
        If the stream is too short for the requests asked for.
    """
    run = scenario.run
    each = run.prompt_tokens + run.new_tokens
    there = served.tokens.size // each
    num_requests = most or run.requests or there // run.batch * run.batch
    num_batches = -(-num_requests // run.batch)
    if num_batches * run.batch > there or not num_requests:
        raise ScenarioError(
            f"{scenario.name}: stream.path {scenario.stream.path!r} leaves {served.tokens.size} tokens to serve; "
            f"{max(1, num_batches) * run.batch} requests of {each} need {max(1, num_batches) * run.batch * each}"
        )
    used = served.tokens[: num_batches * run.batch * each]
    return used.reshape(num_batches, run.batch, each)


def bigrams_of(scenario: EmbeddingRows, served: Served) -> Bigrams | None:
    """Return the predictor that the first part of the stream gives; None where none is asked for."""
    if scenario.run.mode != "prefetch" or not scenario.prefetch.bigram_rows:
        return None
    if served.learnt.size < 2:
        raise ScenarioError(
            f"{scenario.name}: prefetch.bigram_rows learns from stream.train_frac, which leaves it none"
        )
    return fit_bigrams(served.learnt, vocab_size=shape_of(scenario).vocab_size, most=scenario.prefetch.bigram_rows)


def calls_of(scenario: EmbeddingRows, requests: IntArray, bigrams: Bigrams | None) -> list[EmbedCall]:
    """Return every call of a cell, in order."""
    mode = scenario.run.mode
    calls: list[EmbedCall] = []
    for number, batch in enumerate(requests):
        if mode == "warm":
            calls += _request(scenario, number, batch, counts=False, is_fresh=True)
        queued = requests[number + 1] if mode == "prefetch" and number + 1 < len(requests) else None
        calls += _request(scenario, number, batch, is_fresh=mode == "cold" or not calls, queued=queued, bigrams=bigrams)
    return calls


def _request(
    scenario: EmbeddingRows,
    number: int,
    batch: IntArray,
    *,
    counts: bool = True,
    is_fresh: bool,
    queued: IntArray | None = None,
    bigrams: Bigrams | None = None,
) -> Iterator[EmbedCall]:
    prompt_tokens, new_tokens = scenario.run.prompt_tokens, scenario.run.new_tokens
    for step in range(new_tokens):
        start, end = (0, prompt_tokens) if step == 0 else (prompt_tokens + step - 1, prompt_tokens + step)
        tokens = batch[:, start:end]
        ahead = []
        if bigrams is not None and step < new_tokens - 1:
            ahead.append(bigrams.after(tokens[:, -1]))
        if queued is not None and scenario.prefetch.queued and step == 0:
            ahead.append(queued[:, :prompt_tokens].reshape(-1))
        yield EmbedCall(
            tokens=tokens,
            request=number,
            step=step,
            cached_tokens=0 if step == 0 else start,
            ahead=np.concatenate(ahead) if ahead else _NOTHING,
            counts=counts,
            is_fresh=is_fresh and step == 0,
        )


def budget_rows(scenario: EmbeddingRows) -> int:
    """Return the rows that fit.

    Raises
    ------
    ScenarioError
        If not one does.
    """
    shape, cache = shape_of(scenario), scenario.cache
    if cache.budget_rows is not None:
        return min(cache.budget_rows, shape.vocab_size)
    if cache.budget_frac is not None:
        return max(1, round(cache.budget_frac * shape.vocab_size))
    assert cache.budget_bytes is not None
    rows = cache.budget_bytes // row_bytes(scenario)
    if not rows:
        raise ScenarioError(
            f"{scenario.name}: cache.budget_bytes {cache.budget_bytes} is less than a row's {row_bytes(scenario)}"
        )
    return min(rows, shape.vocab_size)


def row_bytes(scenario: EmbeddingRows) -> int:
    """Return the bytes of one row of the table."""
    shape = shape_of(scenario)
    return shape.hidden_size * shape.dtype_bytes


def episodes(calls: list[EmbedCall]) -> Iterator[list[EmbedCall]]:
    """Yield the calls that one cache sees from empty, group by group."""
    starts = [place for place, call in enumerate(calls) if call.is_fresh] + [len(calls)]
    for start, end in itertools.pairwise(starts):
        yield calls[start:end]


def state_of(scenario: EmbeddingRows, calls: list[EmbedCall]) -> RowCacheState:
    """Return an empty cache state for the calls of one episode; an oracle gets all that is to come."""
    name = scenario.cache.policy
    future = future_of(calls)[0] if CACHE_POLICIES[name].kind == "oracle" else None
    return RowCacheState(
        name,
        budget_rows(scenario),
        num_rows=shape_of(scenario).vocab_size,
        seed=scenario.cache.seed,
        future=future,
    )


def future_of(calls: list[EmbedCall]) -> tuple[IntArray, BoolArray]:
    """Return the rows that the cache state will see, in their order, and which of them calls that count look up."""
    rows, counts = [], []
    for call in calls:
        for part, is_counted in ((call.tokens, call.counts), (call.ahead, False)):
            if part.size:
                rows.append(distinct(part)[0])
                counts.append(np.full(rows[-1].size, is_counted))
    return np.concatenate(rows), np.concatenate(counts)


def _read(choice: StreamChoice, beside: Path | None) -> tuple[StreamHeader, IntArray]:
    path = find_tokens(choice.path, beside)
    if is_token_stream(path):
        if choice.tokenizer is not None:
            raise ScenarioError(f"stream.path {choice.path!r} has tokens already: leave stream.tokenizer out")
        stream = read_token_stream(path)
        return stream.header, stream.tokens
    if choice.tokenizer is None:
        raise ScenarioError(f"stream.path {choice.path!r} is a text: stream.tokenizer should be the folder of a model")
    return _tokenized(path, Path(near(choice.tokenizer, beside)))


def _tokenized(path: Path, folder: Path) -> tuple[StreamHeader, IntArray]:
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise ScenarioError(f"stream.path {str(path)!r}: cannot read the text ({reason})") from None
    tokens = tokens_of([text], folder)[0]
    if not tokens.size:
        raise ScenarioError(f"stream.path {str(path)!r} has no tokens")
    header = StreamHeader(
        vocab_size=int(tokens.max()) + 1, tokenizer=folder.name, source=str(path), licence="", recipe=""
    )
    return header, tokens
