"""Embedding rows."""
