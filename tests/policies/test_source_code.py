"""A plug-in's code is all that it is made of: its package, what it imports from its folder, and nothing else."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from kvsim.policies.evictors.lru import Lru
from kvsim.policies.source_code import code_digest, own_sources

LRU = "from kvsim.policies.evictors.lru import Lru\n"


def written(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('__slash__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def names(home: Path, module: str) -> list[str]:
    file = Path(str(importlib.import_module(module).__file__)).resolve()
    found, place = own_sources(file, module)
    assert place == home.resolve()
    return [path.relative_to(place).as_posix() for path in found]


def test_a_module_and_all_that_it_imports_from_its_folder(home: Path) -> None:
    written(home, alone_policy=f"{LRU}import numpy\nimport first_helper\nclass Mine(Lru): ...\n")
    written(
        home, first_helper="def later():\n    from pack_of_help import deep\n    return deep\n", unrelated="x = 1\n"
    )
    written(home, pack_of_help__slash____init__="", pack_of_help__slash__deep="x = 1\n")
    expected = ["alone_policy.py", "first_helper.py", "pack_of_help/__init__.py", "pack_of_help/deep.py"]
    assert names(home, "alone_policy") == expected


def test_a_package_whole_and_its_neighbours_that_it_imports(home: Path) -> None:
    written(
        home, own_package__slash____init__="", own_package__slash__inner__slash__mine=LRU, own_package__slash__data=""
    )
    written(home, own_package__slash__uses="import beside_it\n", beside_it="", never_imported="")
    expected = ["beside_it.py", *(f"own_package/{name}.py" for name in ("__init__", "data", "inner/mine", "uses"))]
    assert names(home, "own_package.inner.mine") == expected
    assert names(home, "own_package") == expected


def test_a_change_anywhere_in_it_changes_the_digest_and_elsewhere_not(home: Path) -> None:
    written(home, changing_policy=f"{LRU}import changing_helper\nclass Mine(Lru): ...\n", changing_helper="x = 1\n")
    mine = importlib.import_module("changing_policy").Mine
    before = code_digest(mine)
    written(home, other="x = 1\n")
    assert code_digest(mine) == before is not None
    written(home, changing_helper="x = 2\n")
    assert code_digest(mine) != before


def test_what_does_not_parse_is_read_all_the_same(home: Path) -> None:
    written(home, broken_policy=f"{LRU}class Mine(Lru): ...\n")
    mine = importlib.import_module("broken_policy").Mine
    before = code_digest(mine)
    written(home, broken_policy="def (:\n")
    assert code_digest(mine) != before


def test_kvsims_own_classes_and_those_without_a_source_have_none() -> None:
    assert code_digest(Lru) is None
    assert code_digest(type("Made", (), {"__module__": "nowhere"})) is None
