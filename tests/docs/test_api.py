"""docs/api.md: its examples run as they stand, and its table names every public name."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import kvsim

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_its_examples_give_what_they_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # it compares two results that are committed
    examples = doctest.DocTestParser().get_doctest(TEXT, {}, "docs/api.md", "docs/api.md", 0)
    assert len(examples.examples) > 20
    printed: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    results = runner.run(examples, out=printed.append)
    assert results.failed == 0, "".join(printed)


def test_its_table_names_every_public_name_but_the_types_of_what_is_returned() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", TEXT, flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    returned = {"Result", "Comparison", "Profile", "Scenario", "__version__"}
    assert named == set(kvsim.__all__) - returned
    assert returned - {"__version__", "Scenario"} <= set(re.findall(r"`(\w+)`", TEXT))
