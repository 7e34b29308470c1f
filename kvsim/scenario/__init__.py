"""A TOML file as frozen objects, model shapes, and what ships.

Before 0.1 this was the module that is now `kvsim.scenario.decode`; its names are forwarded for one release.
"""

from kvsim._moved import forward

__getattr__ = forward("kvsim.scenario", "kvsim.scenario.decode")
