"""Importing kvsim changes no other library: transformers' table of attention functions stays as it was."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

LOOK = """
import importlib, pkgutil
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

before = {*ALL_ATTENTION_FUNCTIONS}, {*ALL_MASK_ATTENTION_FUNCTIONS}
import kvsim.engine

names = [module.name for module in pkgutil.walk_packages(kvsim.engine.__path__, "kvsim.engine.")]
others = ("kvsim.engine.vllm.inside", "kvsim.engine.weights", "kvsim.engine.row_cache")  # vLLM's own, and old names
names = [name for name in names if name not in others]
for name in names:
    importlib.import_module(name)
assert ({*ALL_ATTENTION_FUNCTIONS}, {*ALL_MASK_ATTENTION_FUNCTIONS}) == before
print(len(names))
"""


def test_importing_the_engine_registers_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40
