"""Now kvsim.profile."""

from kvsim._moved import forward

__getattr__ = forward("kvsim.hardware", "kvsim.profile.profile", "kvsim.profile.tables")
