"""Dropping."""
