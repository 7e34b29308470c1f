"""Chunks of blocks kept in a tier below the device: which are there, which are on their way, and which leave.

State and accounting without a clock. After the offloading manager of vLLM 0.32.0 (``vllm/v1/kv_offload/cpu``): a chunk
that is being written or read stays, recency is set when a chunk comes and when a request that saw it ends, and an offer
that finds no room is refused as a whole.
"""

from kvsim.caches.tiers.chunks import Access, ChunkCache, Presence
from kvsim.caches.tiers.orders import CHUNK_ORDERS, ArcOrder, ChunkOrder, LruOrder

__all__ = ["CHUNK_ORDERS", "Access", "ArcOrder", "ChunkCache", "ChunkOrder", "LruOrder", "Presence"]
