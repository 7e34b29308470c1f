"""Decode scenarios: the pages of a KV cache that does not fit."""
