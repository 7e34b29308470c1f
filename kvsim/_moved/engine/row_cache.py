"""Now kvsim.experiments.embedding_rows.engine.cache."""

from kvsim._moved import forward

__getattr__ = forward("kvsim.engine.row_cache", "kvsim.experiments.embedding_rows.engine.cache")
