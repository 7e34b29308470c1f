"""Prefetchers."""
