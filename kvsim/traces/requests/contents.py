"""Blocks of prompts from what a trace records of them: block ids, token ids, text, or lengths and an assumption."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from kvsim.errors import ScenarioError
from kvsim.traces.requests.base import Request, RequestBlocks, gather
from kvsim.traces.requests.hashing import hash_blocks
from kvsim.traces.requests.registry import RequestTrace
from kvsim.traces.tokens.text import byte_tokens, tokens_of
from kvsim.types import IntArray

BYTES = "bytes"
"""The tokenizer that takes every byte of UTF-8 for a token."""

_BATCH_REQUESTS = 64
"""Prompts that a tokenizer takes at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedBeginning:
    """An assumption about prompts of which only lengths are known: what they begin with is shared, the rest is not."""

    tokens: int
    """Shared tokens; 0 for none."""
    variants: int = 1
    """Different beginnings; requests take them in turn."""


def blocks_of(
    trace: RequestTrace,
    *,
    tokenizer: str | Path | None = None,
    shared: SharedBeginning | None = None,
    num_requests: int | None = None,
) -> RequestBlocks:
    """Return the blocks of a trace's requests, in their order.

    Parameters
    ----------
    tokenizer
        For a trace of text: `BYTES`, or the folder of a model with its ``tokenizer.json``.
    shared
        For a trace of lengths: what is assumed of its contents.
    num_requests
        Take only the first so many.

    Raises
    ------
    ScenarioError
        If the trace needs what is absent, or has no use for what is there.
    TraceError
        If a row is damaged.
    """
    check_contents(trace, tokenizer=tokenizer, shared=shared)
    requests: Iterable[Request] = islice(trace.requests, num_requests)
    if tokenizer is not None:
        requests = tokenised(requests, tokenizer)
    if shared is not None:
        requests = _with_assumed_blocks(requests, shared, trace.block_tokens)
    return gather(
        (_with_blocks(request, trace.block_tokens) for request in requests),
        block_tokens=trace.block_tokens,
        source=trace.path,
        reading=trace.reading,
    )


def check_contents(trace: RequestTrace, *, tokenizer: str | Path | None, shared: SharedBeginning | None) -> None:
    """Refuse a trace that needs a tokenizer or an assumption which is absent, or has no use for one.

    Raises
    ------
    ScenarioError
        Naming the setting.
    """
    name, contents = trace.format.name, trace.format.contents
    if (contents == "text") != (tokenizer is not None):
        problem = "has text: tokenizer should be 'bytes' or the folder of a model"
        raise ScenarioError(f"format {name!r} {problem if contents == 'text' else 'has no text: leave tokenizer out'}")
    if (contents == "lengths") != (shared is not None):
        problem = (
            "has lengths only, so no block is known to be shared; state what to assume: shared_tokens = 0 for nothing, "
            "or the tokens that all prompts begin with"
        )
        known = "records contents: leave shared_tokens out"
        raise ScenarioError(f"format {name!r} {problem if contents == 'lengths' else known}")


def tokenised(requests: Iterable[Request], tokenizer: str | Path) -> Iterator[Request]:
    """Yield requests of text with their tokens, by `BYTES` or the tokenizer in a model's folder.

    Raises
    ------
    TraceError
        If there is no such tokenizer.
    """
    waiting = iter(requests)
    while batch := list(islice(waiting, _BATCH_REQUESTS)):
        prompts = _tokens([request.text or "" for request in batch], tokenizer)
        outputs = _tokens([request.output_text or "" for request in batch], tokenizer)
        for request, prompt, output in zip(batch, prompts, outputs, strict=True):
            output_tokens = None if request.output_text is None else int(output.size)
            yield replace(request, token_ids=prompt, input_tokens=int(prompt.size), output_tokens=output_tokens)


def _tokens(texts: list[str], tokenizer: str | Path) -> list[IntArray]:
    return [byte_tokens(text) for text in texts] if tokenizer == BYTES else tokens_of(texts, Path(tokenizer))


def _with_blocks(request: Request, block_tokens: int) -> Request:
    if request.blocks is not None or request.token_ids is None:
        return request
    return replace(request, blocks=hash_blocks(request.token_ids, block_tokens), token_ids=None, text=None)


def _with_assumed_blocks(requests: Iterable[Request], shared: SharedBeginning, block_tokens: int) -> Iterator[Request]:
    """Yield requests whose prompts share the assumed beginning and are each their own from there on."""
    shared_blocks = shared.tokens // block_tokens
    unused = shared.variants * shared_blocks
    for number, request in enumerate(requests):
        num_blocks = request.input_tokens // block_tokens
        first = (number % shared.variants) * shared_blocks
        common = min(num_blocks, shared_blocks)
        own = num_blocks - common
        yield replace(request, blocks=(*range(first, first + common), *range(unused, unused + own)))
        unused += own
