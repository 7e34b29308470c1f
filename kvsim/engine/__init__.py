"""The real thing: caches on a transformers model, paged or of prompts, links, and captures of traces."""

from kvsim.engine.paged_cache import CacheReport, PagedCache
from kvsim.engine.prompt_cache import PromptCache, PromptCacheReport, PromptGeneration, generate_with_prompt_cache

__all__ = [
    "CacheReport",
    "PagedCache",
    "PromptCache",
    "PromptCacheReport",
    "PromptGeneration",
    "generate_with_prompt_cache",
]
