"""Kv on off."""
