"""`from_config`: a `config.json`, a folder that holds one or its keys as a dict, read into a `ModelSpec`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kvsim.errors import ScenarioError
from kvsim.scenario.models.families.table import FAMILIES, WRAPPERS, Family
from kvsim.scenario.models.fields import Fields, UnsupportedError
from kvsim.scenario.models.quantised import read_quantisation
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.suggest import suggestion

MAX_FILE_BYTES = 4 * 2**20
"""No config.json is larger; a larger file is refused before it is parsed."""

_FURTHER = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers", "num_mtp_modules")
"""Keys that count layers which predict further tokens; published checkpoints hold them, plain decoding does not."""

_TOWERS = ("vision_config", "audio_config", "vision_tower_config")


def from_config(source: Mapping[str, Any] | Path | str, *, name: str | None = None) -> ModelSpec:
    """Return the model that a configuration describes.

    Parameters
    ----------
    source
        The keys of a `config.json`, its path, or the folder that it lies in.
    name
        What messages and tables call the model; by default the folder or file it came from.

    Raises
    ------
    ScenarioError
        If there is no such file, it is no configuration, keys are missing or wrong (all in one line), kvsim knows no
        such family, or the configuration asks for something that `ModelSpec` cannot express (then named).
    """
    if isinstance(source, Mapping):
        return _read(source, name or str(source.get("_name_or_path") or source.get("model_type") or "model"))
    path = Path(source)
    file = path / "config.json" if path.is_dir() else path
    config = dict(read_keys(file))
    packing = file.parent / "hf_quant_config.json"
    if file.name == "config.json" and "quantization_config" not in config and packing.is_file():
        table = read_keys(packing).get("quantization")  # as modelopt writes it
        config["quantization_config"] = {**table, "quant_method": "modelopt"} if isinstance(table, Mapping) else table
    return _read(config, name or (file.parent.name if file.name == "config.json" else file.stem) or str(file))


def read_keys(file: Path) -> Mapping[str, Any]:
    """Return the keys of a file.

    Raises
    ------
    ScenarioError
        If there is no such file, or it holds no keys.
    """
    try:
        if not file.is_file():
            what = "not a file" if file.exists() else "no such file"
            raise ScenarioError(f"{file}: {what}; give a config.json, or the folder of a model that holds one")
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ScenarioError(f"{file}: larger than {MAX_FILE_BYTES // 2**20} MiB, which no config.json is")
        keys = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as problem:
        raise ScenarioError(f"{file}: {problem.strerror}") from None
    except (ValueError, RecursionError) as problem:
        raise ScenarioError(f"{file}: not valid JSON: {problem}") from None
    if not isinstance(keys, dict):
        raise ScenarioError(f"{file}: not a table of keys, as a config.json is")
    return keys


def _read(config: Mapping[str, Any], name: str) -> ModelSpec:
    text = config.get("text_config")
    keys = text if isinstance(text, Mapping) else config
    model_type = _model_type(config, keys, name)
    family = FAMILIES[model_type]
    fields = Fields({**family.defaults, **keys}, outer=config, names=family.names)
    try:
        spec = _build(family, fields, name)
        quantisation = read_quantisation(config, keys, spec)
    except UnsupportedError as problem:
        raise UnsupportedError(f"{name}: kvsim cannot express {problem}") from None
    return replace(
        spec,
        name=name,
        model_type=model_type,
        dtype=fields.dtype,
        quantisation=quantisation,
        not_counted=_not_counted(config, keys),
        unread=tuple(key for key in fields.unread() if key not in _FURTHER),
    )


def _model_type(config: Mapping[str, Any], keys: Mapping[str, Any], name: str) -> str:
    """Return the family of the text part."""
    outer, inner = config.get("model_type"), keys.get("model_type")
    if not isinstance(outer, str) and not isinstance(inner, str):
        raise ScenarioError(f"{name}: no model_type, which every config.json has")
    if isinstance(inner, str) and inner in FAMILIES:
        return inner
    if isinstance(outer, str) and outer in WRAPPERS:
        return WRAPPERS[outer]
    unknown = inner if isinstance(inner, str) else str(outer)
    hint = suggestion(unknown, FAMILIES, "families are read", examples=("llama", "qwen3", "deepseek_v3"))
    raise ScenarioError(f"{name}: unknown model_type {unknown[:60]!r}{hint}")


def _build(family: Family, fields: Fields, name: str) -> ModelSpec:
    """Return what the family reads; every missing or wrong key in one line."""
    try:
        spec = family.build(fields)
    except UnsupportedError:
        if fields.problems:  # what is missing comes first: it may be why nothing fits
            raise ScenarioError(f"{name}: {'; '.join(fields.problems)}") from None
        raise
    if fields.problems:
        raise ScenarioError(f"{name}: {'; '.join(fields.problems)}")
    return spec


def _not_counted(config: Mapping[str, Any], keys: Mapping[str, Any]) -> tuple[str, ...]:
    towers = [key.removesuffix("_config").replace("_", " ") for key in _TOWERS if config.get(key)]
    number = next((keys[key] for key in _FURTHER if keys.get(key)), None)
    return (*towers, *([f"layers that predict further tokens ({number})"] if number else []))
