"""Prompt modules."""
