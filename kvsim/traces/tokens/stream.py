"""Streams of token ids: the files that hold them, and streams drawn from a Zipf law fitted to one.

A file is JSON lines, ``.gz`` or not: the first says which tokenizer made the tokens and of what, each other one is a
document, a list of token ids.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from kvsim.errors import TraceError
from kvsim.scenario.whole_files import write_whole
from kvsim.traces.lines import lines_of, object_of
from kvsim.types import IntArray

MAX_VOCAB = 2**24
"""Most rows that a stream's table may have."""

MAX_TOKENS = 10**8


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamHeader:
    """What a stream's tokens are."""

    vocab_size: int
    tokenizer: str
    source: str
    """Of what text."""
    licence: str
    recipe: str
    """The command that makes the file again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStream:
    """Token ids in order."""

    header: StreamHeader
    tokens: IntArray
    starts: IntArray
    """``[num_documents + 1]``: where each document begins."""


def read_token_stream(path: Path) -> TokenStream:
    """Return the stream in a file.

    Raises
    ------
    TraceError
        Naming file and line, if the file cannot be read, or a token is none of the vocabulary.
    """
    documents: list[IntArray] = []
    header: StreamHeader | None = None
    num_tokens = 0
    for line, text in lines_of(path):
        row = object_of(text, path, line)
        if header is None:
            header = _header_of(row, path, line)
            continue
        documents.append(_document_of(row, header, path, line))
        num_tokens += documents[-1].size
        if num_tokens > MAX_TOKENS:
            raise TraceError(path, f"more than {MAX_TOKENS:,} tokens", line=line)
    if header is None or not num_tokens:
        raise TraceError(path, 'no tokens; the first line is a header, each other one {"tokens": [1, 2, 3]}')
    sizes = [document.size for document in documents]
    return TokenStream(header=header, tokens=np.concatenate(documents), starts=np.cumsum([0, *sizes]))


def write_token_stream(path: Path, header: StreamHeader, documents: Sequence[IntArray]) -> None:
    """Write a stream, whole or not at all; the same tokens give the same bytes."""
    data = stream_bytes(header, documents)
    write_whole(path, gzip.compress(data, 9, mtime=0) if path.suffix == ".gz" else data)


def stream_bytes(header: StreamHeader, documents: Sequence[IntArray]) -> bytes:
    """Return a stream as the lines of its file."""
    rows: Iterator[Any] = iter([asdict(header), *({"tokens": document.tolist()} for document in documents)])
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows).encode()


def zipf_exponent(tokens: IntArray, vocab_size: int) -> float:
    r"""Return the exponent of the Zipf law over `vocab_size` ranks under which a stream's counts are likeliest.

    A token's rank is its place by count, so :math:`p(r) \propto r^{-s}`; ranks taken from the counts themselves make
    `s` a little too large.
    """
    counts = np.sort(np.bincount(tokens))[::-1]
    counts = counts[counts > 0]
    logs = np.log(np.arange(1, max(vocab_size, counts.size) + 1))
    weighted = float(counts @ logs[: counts.size]) / float(counts.sum())

    def loss(exponent: float) -> float:
        return exponent * weighted + float(np.log(np.exp(-exponent * logs).sum()))

    return float(minimize_scalar(loss, bounds=(0.01, 4.0), method="bounded").x)


def zipf_tokens(exponent: float, *, vocab_size: int, num_tokens: int, seed: int) -> IntArray:
    """Return tokens drawn one by one from a Zipf law, ranks dealt to ids at random: no order, no phrases, no topic."""
    rng = np.random.default_rng(seed)
    weights = np.arange(1, vocab_size + 1, dtype=np.float64) ** -exponent
    edges = np.cumsum(weights)
    ranks = np.searchsorted(edges, rng.random(num_tokens) * edges[-1], side="right")
    tokens: IntArray = rng.permutation(vocab_size)[np.minimum(ranks, vocab_size - 1)]
    return tokens


def _header_of(row: dict[str, Any], path: Path, line: int) -> StreamHeader:
    size = row.get("vocab_size")
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MAX_VOCAB:
        raise TraceError(path, f"the header's vocab_size should be from 1 to {MAX_VOCAB:,}, found {size!r}", line=line)
    texts = {name: row.get(name, "") for name in ("tokenizer", "source", "licence", "recipe")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise TraceError(path, f"the header's {name} should be text, found {text!r}", line=line)
    return StreamHeader(vocab_size=size, **texts)


def _document_of(row: dict[str, Any], header: StreamHeader, path: Path, line: int) -> IntArray:
    ids = row.get("tokens")
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise TraceError(path, 'should be {"tokens": [...]}, a list of token ids', line=line)
    wrong = next((token for token in ids if not 0 <= token < header.vocab_size), None)
    if wrong is not None:
        raise TraceError(path, f"token {wrong}: the header's vocabulary is 0 to {header.vocab_size - 1}", line=line)
    return np.array(ids, dtype=np.int64)


def is_token_stream(path: Path) -> bool:
    """Return whether a file is called as streams are; any other is text."""
    return re.search(r"\.jsonl(\.gz)?$", path.name) is not None
