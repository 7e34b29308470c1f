"""Names of before 0.2 work for one release: each gives the same object, with one warning that names the new place."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from typing import Any

import pytest

from kvsim.policies.registry import load_class

MOVED = [
    ("kvsim.hardware", "load_profile", "kvsim.profile.profile"),
    ("kvsim.hardware", "Profile", "kvsim.profile.profile"),
    ("kvsim.hardware", "CostTable", "kvsim.profile.profile"),
    ("kvsim.models", "SHAPES", "kvsim.scenario.shapes"),
    ("kvsim.results", "load_result", "kvsim.report.results"),
    ("kvsim.results", "make_manifest", "kvsim.profile.provenance"),
    ("kvsim.prefix", "TierBudget", "kvsim.caches.prompts.accounting"),
    ("kvsim.prefix", "hash_blocks", "kvsim.caches.prefix"),
    ("kvsim.scenario", "load_scenario", "kvsim.scenario.decode"),
    ("kvsim.scenario", "Scenario", "kvsim.scenario.decode"),
]
NEED_TORCH = [
    ("kvsim.engine.weights", "load_model", "kvsim.engine.model.loading"),
    ("kvsim.engine.row_cache", "cached_embedding", "kvsim.experiments.embedding_rows.engine.cache"),
]


def imported(module: str, name: str) -> tuple[Any, list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vars(importlib.import_module(module)).pop(name, None)
        scope: dict[str, Any] = {}
        exec(f"from {module} import {name}", scope)
    return scope[name], caught


@pytest.mark.parametrize(("old", "name", "new"), MOVED)
def test_an_old_name_gives_the_same_object_with_one_warning(old: str, name: str, new: str) -> None:
    found, caught = imported(old, name)
    assert found is getattr(importlib.import_module(new), name)
    assert [(one.category, str(one.message)) for one in caught] == [
        (DeprecationWarning, f"{old}.{name} is now {new}.{name}; the old name goes with the next release")
    ]


@pytest.mark.parametrize(("old", "name", "new"), NEED_TORCH)
def test_old_names_in_the_engine(old: str, name: str, new: str) -> None:
    pytest.importorskip("torch")
    test_an_old_name_gives_the_same_object_with_one_warning(old, name, new)


def test_a_name_that_never_was_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from kvsim.hardware import nothing")


@pytest.mark.parametrize("module", ["kvsim.engine.weights", "kvsim.traces.make_token_stream"])
def test_old_modules_run_as_commands(module: str) -> None:
    pytest.importorskip("torch")
    done = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, check=False)
    assert "usage: python -m kvsim." in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("kvsim.policies.prefetch_next_step:NextStep", "kvsim.policies.prefetchers.next_step"),
        ("kvsim.policies.importance:ImportanceRank", "kvsim.policies.evictors.importance_rank"),
        ("kvsim.policies.attention:Attention", "kvsim.policies.standalone.attention"),
        ("kvsim.policies.drop_h2o:HeavyHitters", "kvsim.policies.dropping.h2o"),
        ("kvsim.policies.paged:Paged", "kvsim.policies.composed"),
    ],
)
def test_old_places_of_policies_in_scenarios_are_found(old: str, name: str) -> None:
    assert load_class(old, "policy").__module__ == name
