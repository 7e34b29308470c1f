"""Texts as tokens: every byte one, or by a model's own tokenizer, without its model and without torch."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import KvsimError, TraceError


def byte_tokens(text: str) -> NDArray[np.int64]:
    """Return the bytes of a text in UTF-8, each a token."""
    return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)


def tokens_of(prompts: Sequence[str], folder: Path) -> list[NDArray[np.int64]]:
    """Return the token ids of each prompt, by the ``tokenizer.json`` of a model's folder; nothing is added in front.

    Raises
    ------
    TraceError
        If there is no such tokenizer.
    KvsimError
        If the package tokenizers, which kvsim does not demand, is not installed.
    """
    if importlib.util.find_spec("tokenizers") is None:
        raise KvsimError("a model's tokenizer needs the package tokenizers: pip install tokenizers")
    file = folder / "tokenizer.json"
    try:
        tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(file))
    except Exception as problem:  # the library raises nothing narrower
        raise TraceError(file, f"no tokenizer: {problem}") from None
    encoded = tokenizer.encode_batch(list(prompts), add_special_tokens=False)
    return [np.array(encoding.ids, dtype=np.int64) for encoding in encoded]
