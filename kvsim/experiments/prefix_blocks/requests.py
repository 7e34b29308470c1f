"""The requests of a prefix-blocks scenario: the reader its format asks for, and blocks where the trace has none."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvsim.caches.prefix import hash_blocks
from kvsim.errors import KvsimError
from kvsim.experiments.base import near
from kvsim.experiments.prefix_blocks.scenario import RequestsChoice
from kvsim.scenario.digest import content_digest
from kvsim.scenario.shipped import find_requests
from kvsim.traces.requests.base import Request, RequestBlocks, gather
from kvsim.traces.requests.csv import read_azure, read_lengths
from kvsim.traces.requests.full_blocks import read_full_blocks
from kvsim.traces.requests.mooncake import read_mooncake
from kvsim.traces.requests.sessions import read_sessions


def requests_of(choice: RequestsChoice, beside: Path | None) -> RequestBlocks:
    """Return the requests that a scenario replays, in the order of their arrival.

    Raises
    ------
    TraceError
        If the trace cannot be read, or a row lies.
    """
    path = find_requests(choice.path, beside)
    block_tokens = choice.tokens_of_block
    rows = itertools.islice(_rows(choice, path, beside), choice.num_requests)
    return gather(rows, block_tokens=block_tokens, source=path)


def recorded_requests(file: Path, block_tokens: int) -> RequestBlocks:
    """Return the requests that a measurement recorded."""
    return gather(read_full_blocks(file, block_tokens=block_tokens), block_tokens=block_tokens, source=file)


def digest_of(requests: RequestBlocks) -> str:
    """Return a digest of lengths and blocks: equal digests, equal hits."""
    return content_digest(requests.input_tokens, requests.starts, requests.blocks)


def _rows(choice: RequestsChoice, path: Path, beside: Path | None) -> Iterator[Request]:
    block_tokens = choice.tokens_of_block
    if choice.format == "mooncake":
        return read_mooncake(path, block_tokens=block_tokens)
    if choice.format == "full-blocks":
        return read_full_blocks(path, block_tokens=block_tokens)
    if choice.format == "sessions":
        return iter(_of_text(choice, list(read_sessions(path, part=choice.part)), beside))
    rows = read_azure(path) if choice.format == "azure" else read_lengths(path)
    return _assumed(rows, choice, block_tokens)


def _of_text(choice: RequestsChoice, requests: list[Request], beside: Path | None) -> Iterable[Request]:
    """Return requests with the blocks of their text, by arrival."""
    ordered = sorted(requests, key=lambda request: request.arrival_s or 0.0)[: choice.num_requests]
    started_s = (ordered[0].arrival_s or 0.0) if ordered else 0.0
    for request, tokens in zip(ordered, _tokens(choice, ordered, beside), strict=True):
        yield replace(
            request,
            arrival_s=(request.arrival_s or 0.0) - started_s,
            input_tokens=int(tokens.size),
            blocks=hash_blocks(tokens, choice.tokens_of_block),
            prompt=None,
        )


def _tokens(choice: RequestsChoice, requests: list[Request], beside: Path | None) -> list[NDArray[np.int64]]:
    prompts = [request.prompt or "" for request in requests]
    if choice.tokenizer in (None, "bytes"):
        return [np.frombuffer(prompt.encode(), dtype=np.uint8).astype(np.int64) for prompt in prompts]
    if importlib.util.find_spec("tokenizers") is None:
        raise KvsimError(
            'trace.tokenizer: a model\'s tokenizer needs the package tokenizers: pip install "kvsim[torch]"'
        )
    folder = Path(near(str(choice.tokenizer), beside))
    found: list[NDArray[np.int64]] = importlib.import_module("kvsim.traces.tokens.text").tokens_of(prompts, folder)
    return found


def _assumed(rows: Iterator[Request], choice: RequestsChoice, block_tokens: int) -> Iterator[Request]:
    """Yield requests whose prompts share the assumed beginning and are each their own from there on."""
    shared_blocks = (choice.shared_tokens or 0) // block_tokens
    fresh = choice.shared_by * shared_blocks
    for number, request in enumerate(rows):
        num_blocks = request.input_tokens // block_tokens
        first = (number % choice.shared_by) * shared_blocks
        common = min(num_blocks, shared_blocks)
        own = num_blocks - common
        yield replace(request, blocks=(*range(first, first + common), *range(fresh, fresh + own)))
        fresh += own
