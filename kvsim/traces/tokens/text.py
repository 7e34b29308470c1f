"""Prompts as tokens, for traces that have text: by a model's own tokenizer, without its model and without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from kvsim.errors import TraceError


def tokens_of(prompts: Sequence[str], folder: Path) -> list[NDArray[np.int64]]:
    """Return the token ids of each prompt, by the ``tokenizer.json`` of a model's folder; nothing is added in front.

    Raises
    ------
    TraceError
        If there is no such tokenizer.
    """
    file = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as problem:  # the library raises nothing narrower
        raise TraceError(file, f"no tokenizer: {problem}") from None
    encoded = tokenizer.encode_batch(list(prompts), add_special_tokens=False)
    return [np.array(found.ids, dtype=np.int64) for found in encoded]
