"""The figure library that every page carries: plotly.js (MIT), compressed, so that a page needs no network."""

from __future__ import annotations

import base64
import gzip
from functools import cache

from plotly.offline import get_plotlyjs, get_plotlyjs_version

_LEVEL = 4
"""Of the compression: 4.8 MB become 1.6 MB in 0.1 s; the browser unpacks them."""


@cache
def library_base64() -> str:
    """Return plotly.js as base64 of gzip; equal for equal versions."""
    packed = gzip.compress(get_plotlyjs().encode(), _LEVEL, mtime=0)
    return base64.b64encode(packed).decode("ascii")


def library_name() -> str:
    """Return what the library is called, with its version and licence."""
    return f"plotly.js {get_plotlyjs_version()}, MIT licence"
