"""The scripts in bench/ import their parts from there, and so do the tests of them."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.report.conftest import make_run

__all__ = ["make_run"]

sys.path.append(str(Path(__file__).parents[2] / "bench"))
