"""Scenario files of any experiment, as tests read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvsim.experiments.registry import load_scenario


def load_named(path: Path, overrides: Sequence[str] = ()) -> tuple[str, Any]:
    """Return the name of the experiment of a scenario file, and the scenario."""
    loaded = load_scenario(path, overrides)
    return loaded.experiment, loaded.scenario
