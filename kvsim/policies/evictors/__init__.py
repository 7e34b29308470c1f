"""Evictors."""
