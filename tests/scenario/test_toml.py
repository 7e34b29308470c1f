"""The reader of strict files tells people which key is wrong, whatever alternatives a field allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvsim.errors import CalibrationError, ScenarioError
from kvsim.scenario.toml import Strict, nearest, parse_toml, parsed, read_toml, validate


def errors_of(model: type[Strict], tables: dict[str, Any]) -> list[str]:
    return parsed(model, tables)[1]


class Size(Strict):
    width: int
    height: int = 1


class Room(Strict):
    size: str | Size
    depth: int | float = 0
    tags: dict[str, str | int] = {}
    deep: dict[str, Size] = {}


def test_a_field_of_two_kinds_is_told_in_one_line() -> None:
    assert errors_of(Room, {"size": 3}) == ["size: should be text in quotes or a table, found 3"]
    assert errors_of(Room, {"size": "a", "depth": "b"}) == ["depth: should be a number, found 'b'"]


def test_a_table_is_judged_as_a_table_and_not_also_as_text() -> None:
    assert errors_of(Room, {"size": {"width": "b"}}) == ["size.width: should be a whole number, found 'b'"]
    assert errors_of(Room, {"size": {"width": 1, "hight": 2}}) == ["unknown key 'size.hight'; did you mean 'height'?"]


def test_keys_named_like_types_keep_their_place() -> None:
    tables = {"size": "a", "tags": {"str": [], "int": {}}}
    assert errors_of(Room, tables) == [
        "tags.str: should be text in quotes or a whole number, found an empty list",
        "tags.int: should be text in quotes or a whole number, found a table",
    ]


def test_a_misspelt_key_is_not_told_again_as_a_missing_one() -> None:
    assert errors_of(Room, {"siez": "a"}) == ["unknown key 'siez'; did you mean 'size'?"]
    assert errors_of(Size, {}) == ["width: missing; it has no default"]


def test_a_known_key_in_the_wrong_table_is_told_its_place() -> None:
    assert errors_of(Room, {"size": "a", "width": 3}) == ["unknown key 'width'; did you mean 'size.width'?"]


def test_keys_of_free_tables_are_followed_to_the_model_within() -> None:
    tables = {"size": "a", "deep": {"first.one": {"width": 1, "hight": 1}}}
    assert errors_of(Room, tables) == ["unknown key 'deep.\"first.one\".hight'; did you mean 'height'?"]


def test_hostile_keys_and_values_stay_on_one_short_line() -> None:
    tables = {"size": "a", "x\ny" * 500: 1, "depth": "z\n" * 500}
    for fault in errors_of(Room, tables):
        assert "\n" not in fault
        assert len(fault) < 200


def test_every_line_names_the_file_and_the_error_is_the_readers_own() -> None:
    with pytest.raises(CalibrationError, match=r"^p\.toml: width: missing; it has no default$"):
        validate(Size, {}, where="p.toml", error=CalibrationError)
    assert validate(Size, {"width": 2}, where="p.toml", error=CalibrationError) == Size(width=2)


def test_a_file_is_read_as_tables_and_its_errors_are_the_readers_own(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text("a.b = [1]\n")
    assert read_toml(path, CalibrationError) == {"a": {"b": [1]}}
    with pytest.raises(CalibrationError, match="no such file"):
        read_toml(tmp_path / "none.toml", CalibrationError)
    with pytest.raises(ScenarioError, match="not a file name: embedded null byte"):
        read_toml(Path("a\0b"), ScenarioError)


def test_integers_end_where_toml_ends_them() -> None:
    assert parse_toml("a = 9223372036854775807") == {"a": 2**63 - 1}
    with pytest.raises(ValueError, match="an integer of more than 64 bits"):
        parse_toml("a = [{b = 9223372036854775808}]")


def test_the_nearest_name_is_offered_and_without_one_all_names() -> None:
    assert nearest("atention", ["lru", "attention"]) == "; did you mean 'attention'?"
    assert nearest("xyz", ["lru", "attention"]) == "; known: attention, lru"
    assert nearest("xyz", []) == ""
