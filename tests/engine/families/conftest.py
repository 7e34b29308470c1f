"""Every family of the engine's table, each with one tiny model for the whole session."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from kvsim.engine.model.family_table import FAMILIES  # noqa: E402
from tests.engine.families.models import tiny_model_of  # noqa: E402


@pytest.fixture(autouse=True)
def on_one_thread(one_thread):
    """Every test of a family computes on one thread."""


@pytest.fixture(scope="session", params=list(FAMILIES))
def model(request):
    """Return a tiny model of one family; never changed by a test."""
    return tiny_model_of(request.param)
