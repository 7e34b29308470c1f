"""The notebooks run as they are, and print what they were saved with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def printed(cell: Any) -> list[str]:
    """Return the text that a cell printed or returned."""
    outputs = cell.get("outputs", [])
    return [str(one.get("text") or one["data"]["text/plain"]) for one in outputs if one.get("name") != "stderr"]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: str(path.stem))
def test_a_notebook_prints_what_it_was_saved_with(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(NOTEBOOKS)
    saved, notebook = nbformat.read(path, 4), nbformat.read(path, 4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    for before, after in zip(saved.cells, notebook.cells, strict=True):
        assert printed(after) == printed(before), before.source


def test_there_are_notebooks() -> None:
    assert len(list(NOTEBOOKS.glob("*.ipynb"))) >= 2
