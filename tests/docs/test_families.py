"""The table of model families in the documentation is that of the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_families_is_that_of_the_engine() -> None:
    spec = importlib.util.spec_from_file_location("families", ROOT / "docs" / "families.py")
    assert spec is not None and spec.loader is not None
    families = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(families)
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert families.with_table(page) == page, "run: python docs/families.py"
    for name in families.FAMILIES:
        assert f"| `{name}` |" in page
