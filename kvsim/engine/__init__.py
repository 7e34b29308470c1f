"""The real thing: a paged KV cache on a transformers model, the link that moves its pages, and captures of traces."""

from kvsim.engine.paged_cache import CacheReport, PagedCache

__all__ = ["CacheReport", "PagedCache"]
