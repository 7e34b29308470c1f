"""Prefix blocks."""
