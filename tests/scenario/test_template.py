"""The scenario that `kvsim init` writes knows every field there is, and tells its default as it is."""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import kvsim
from kvsim.scenario.decode import Scenario
from kvsim.scenario.shapes import ModelShape

TEMPLATE = (Path(kvsim.__file__).parent / "scenario" / "template.toml").read_text(encoding="utf-8")

Field = tuple[str, str]


def fields_of(model: type[BaseModel], table: str = "") -> Iterator[tuple[Field, Any]]:
    """Yield ((table, key), default) of every field that a file can give."""
    for name, field in model.model_fields.items():
        path = f"{table}.{name}".lstrip(".")
        inner = [part for part in typing.get_args(field.annotation) or (field.annotation,) if isinstance(part, type)]
        models = [part for part in inner if issubclass(part, BaseModel)]
        for part in models:
            yield from fields_of(part, path)
        if (not models or ModelShape in models) and name != "sweep":
            yield (table, name), field.default


def told() -> Iterator[tuple[Field, str, bool]]:
    """Yield ((table, key), value as written, whether it is commented out) of every line of the template."""
    table = ""
    for line in TEMPLATE.splitlines():
        if heading := re.match(r"^(# )?\[([\w.]+)\]$", line):
            table = heading[2]
        elif entry := re.match(r"^(# )?(\w+) = (.*?)(  #.*)?$", line):
            yield (table, entry[2]), entry[3], bool(entry[1])


def test_the_template_tells_every_field_and_no_other() -> None:
    assert {field for field, _, _ in told()} == {field for field, _ in fields_of(Scenario)}


def test_a_commented_field_shows_its_default() -> None:
    defaults = {field: default for field, default in fields_of(Scenario) if isinstance(default, str | int | float)}
    shown = {field: value for field, value, is_comment in told() if is_comment and field in defaults}
    assert len(shown) >= 10
    for field, value in shown.items():
        assert tomllib.loads(f"value = {value}")["value"] == defaults[field], field
