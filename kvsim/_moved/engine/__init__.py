"""Modules of kvsim.engine under their old names."""
