"""Prompt cache."""
