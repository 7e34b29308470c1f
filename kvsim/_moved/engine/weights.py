"""Now kvsim.engine.model.loading."""

import importlib
import sys

from kvsim._moved import forward

__getattr__ = forward("kvsim.engine.weights", "kvsim.engine.model.loading")

if __name__ == "__main__":
    sys.exit(importlib.import_module("kvsim.engine.model.loading").main(sys.argv[1:]))
