"""The models that ship by name: the decisive keys of their published `config.json`, with where they were read."""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvsim.errors import ScenarioError
from kvsim.scenario.models.config import from_config
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.suggest import suggestion


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """One entry of `known.json`."""

    name: str
    hub: str
    """The repository on huggingface.co that publishes the configuration."""
    source: str
    """Where its text was read."""
    date: str
    """The day of that text's last change, or of the reading."""
    config: Mapping[str, Any]
    """Its keys that decide sizes."""


@functools.cache
def known_models() -> Mapping[str, KnownModel]:
    """Return every model that ships, by name."""
    text = importlib.resources.files(__package__).joinpath("known.json").read_text(encoding="utf-8")
    return {name: KnownModel(name=name, **entry) for name, entry in json.loads(text).items()}


@functools.cache
def known_model(name: str) -> ModelSpec:
    """Return a model that ships, by its name or by its repository on the hub.

    Raises
    ------
    ScenarioError
        If none is called so.

    Examples
    --------
    >>> known_model("qwen3-8b").num_parameters
    8190735360
    """
    models = known_models()
    key = name.lower()
    entry = models.get(key) or next((model for model in models.values() if model.hub.lower() == key), None)
    if entry is None:
        hint = suggestion(key, models, "models ship", examples=("qwen3-8b", "gemma-3-4b"))
        raise ScenarioError(f"unknown model {name!r}{hint}")
    return from_config(entry.config, name=entry.name)
