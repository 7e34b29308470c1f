"""What transformers calls its cache argument, decided once: 5.24 renamed `past_key_values` to `cache`."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from packaging.version import Version

CACHE_ARGUMENT = "cache" if Version(transformers.__version__) >= Version("5.24.dev0") else "past_key_values"
"""The keyword of ``model(...)`` and ``model.generate(...)``, and the name of the cache in what they return."""


def logits_of(model: Any, ids: torch.Tensor, cache: Any, **options: Any) -> torch.Tensor:
    """Return the logits of one forward pass over `ids`, with `cache` where it is not None."""
    logits: torch.Tensor = model(ids, use_cache=cache is not None, **{CACHE_ARGUMENT: cache}, **options).logits
    return logits


def cache_of(output: Any) -> Any:
    """Return the cache in what ``model`` or ``model.generate`` returned."""
    return getattr(output, CACHE_ARGUMENT)
