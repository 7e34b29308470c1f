"""Estimated profiles: what a model's steps cost on a card that nobody measured, from its data sheet."""
