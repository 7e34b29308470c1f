"""kvsim: what a KV cache that does not fit costs, simulated and measured with the same policies."""

__all__ = ["__version__"]

__version__ = "0.1.0"
