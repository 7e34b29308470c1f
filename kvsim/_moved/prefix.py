"""Now kvsim.caches.prefix and kvsim.caches.prompts."""

from kvsim._moved import forward

__getattr__ = forward("kvsim.prefix", "kvsim.caches.prefix", "kvsim.caches.prompts.accounting")
