"""The table of model families in the documentation is that of the code."""

from __future__ import annotations

import pytest

from tests.scripts import ROOT, load_script

pytest.importorskip("torch")


def test_the_table_of_families_is_that_of_the_engine() -> None:
    families = load_script("docs/families.py")
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert families.with_table(page) == page, "run: python docs/families.py"
    for name in families.FAMILIES:
        assert f"| `{name}` |" in page
