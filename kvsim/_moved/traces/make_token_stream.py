"""Now kvsim.traces.tokens.make."""

import importlib
import sys

from kvsim._moved import forward

__getattr__ = forward("kvsim.traces.make_token_stream", "kvsim.traces.tokens.make")

if __name__ == "__main__":
    sys.exit(importlib.import_module("kvsim.traces.tokens.make").main(sys.argv[1:]))
