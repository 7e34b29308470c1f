"""Where policies are now, by the modules that scenario files and results of before 0.2 name, as in ``module:Class``."""

_EVICTORS = {
    "arc": "arc",
    "belady": "belady",
    "compiled": "compiled",
    "fifo": "fifo",
    "importance": "importance_rank",
    "lfu": "lfu",
    "lru": "lru",
    "random_pages": "random_pages",
    "s3_fifo": "s3_fifo",
    "scored_recency": "scored_recency",
    "sieve": "sieve",
}
_PREFETCHERS = (
    *("attention", "corrected", "learned", "next_step", "none", "oracle", "previous_step"),
    *("speculation", "window_union"),
)
_STANDALONE = ("attention", "compiled_attention", "resident", "stream")

NEW_PLACES: dict[str, str] = {
    **{f"kvsim.policies.{old}": f"kvsim.policies.evictors.{new}" for old, new in _EVICTORS.items()},
    **{f"kvsim.policies.prefetch_{name}": f"kvsim.policies.prefetchers.{name}" for name in _PREFETCHERS},
    **{f"kvsim.policies.{name}": f"kvsim.policies.standalone.{name}" for name in _STANDALONE},
    **{f"kvsim.policies.drop_{name}": f"kvsim.policies.dropping.{name}" for name in ("h2o", "sink_window", "snapkv")},
    "kvsim.policies.paged": "kvsim.policies.composed",
}
