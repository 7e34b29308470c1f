"""Modules of kvsim.traces under their old names."""
