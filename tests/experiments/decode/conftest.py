"""What several tests of decode start from."""

from __future__ import annotations

import pytest

from kvsim.report.results import RunResult
from tests.experiments.decode.small import SMALL, made


@pytest.fixture(scope="session")
def result() -> RunResult:
    """Return a small simulated result of two policies at two budgets."""
    return made(*SMALL)
