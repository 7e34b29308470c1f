"""`find_model`: what a user may write for a model: a name that ships, a path, or a hub id in the local cache."""

from __future__ import annotations

import os
import re
from pathlib import Path

from kvsim.errors import ScenarioError
from kvsim.scenario.models.config import from_config
from kvsim.scenario.models.known import known_model, known_models
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.suggest import suggestion

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+\Z", re.ASCII)


def find_model(text: str, *, base_dir: Path | None = None) -> ModelSpec:
    """Return the model that `text` names.

    Parameters
    ----------
    text
        A name or a hub id of `known_models`; else the path of a `config.json` or of a model's folder, relative to
        `base_dir`; else a hub id whose `config.json` lies in the cache of huggingface_hub. Nothing is downloaded.

    Raises
    ------
    ScenarioError
        If it is none of these, or what it names cannot be read.
    """
    if text.lower() in known_models() or any(model.hub.lower() == text.lower() for model in known_models().values()):
        return known_model(text)
    path = (base_dir or Path()) / Path(text).expanduser()
    if path.exists():
        return from_config(path)
    cached = cached_config(text)
    if cached is not None:
        return from_config(cached, name=text)
    if _HUB_ID.match(text):
        raise ScenarioError(
            f"model {text!r}: no such path, and no config.json of it in {hub_cache()}; "
            f"download the model's config.json and name its path{_suggestion(text)}"
        )
    raise ScenarioError(f"model {text!r}: no such path, and no model that ships{_suggestion(text)}")


def _suggestion(text: str) -> str:
    return suggestion(
        text.rpartition("/")[2].lower(), known_models(), "models ship", examples=("qwen3-8b", "gemma-3-4b")
    )


def cached_config(hub_id: str) -> Path | None:
    """Return the `config.json` of a hub id in the local cache: that of its main branch, else of any revision."""
    if not _HUB_ID.match(hub_id):
        return None
    folder = hub_cache() / f"models--{hub_id.replace('/', '--')}"
    main = folder / "refs" / "main"
    revision = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    files = sorted(folder.glob("snapshots/*/config.json"))
    return next((file for file in files if file.parent.name == revision), files[0] if files else None)


def hub_cache() -> Path:
    """Return where huggingface_hub keeps what it downloads, by its own environment variables."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface").expanduser()
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
