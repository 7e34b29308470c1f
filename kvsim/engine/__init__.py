"""The real thing: caches on a transformers model, paged or of prompts, links, and captures of traces."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "CacheReport": "kvsim.engine.paged.paged_cache",
    "PagedCache": "kvsim.engine.paged.paged_cache",
    "PromptCache": "kvsim.experiments.prompt_cache.engine.cache",
    "PromptCacheReport": "kvsim.experiments.prompt_cache.engine.cache",
    "PromptGeneration": "kvsim.experiments.prompt_cache.engine.cache",
    "generate_with_prompt_cache": "kvsim.experiments.prompt_cache.engine.cache",
}

__path__ = [*__path__, f"{__path__[0]}/../_moved/engine"]  # modules under the names that they had before 0.2


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
