"""What ``--set KEY=VALUE`` says, on every command: one parser, and one way to put a value at a dotted key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvsim.errors import ScenarioError
from kvsim.scenario.toml import parse_toml


def parse_override(override: str, *, example: str = "budget.pages_per_layer=64") -> tuple[str, Any]:
    """Return key and value of one ``KEY=VALUE``; the value is read as TOML, or else is the text itself.

    Raises
    ------
    ScenarioError
        If there is no key or no value; the message shows `example`.

    Examples
    --------
    >>> parse_override("run.batch = [1, 2]"), parse_override("prefetch=previous-step")
    (('run.batch', [1, 2]), ('prefetch', 'previous-step'))
    """
    key, sign, text = (part.strip() for part in override.partition("="))
    if not sign or not key:
        raise ScenarioError(f"--set {override!r}: write KEY=VALUE, as in --set {example}")
    try:
        parsed = parse_toml(f"value = {text}")
    except (ValueError, RecursionError):
        return key, text
    return key, parsed["value"] if set(parsed) == {"value"} else text


def set_at(tables: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Put `value` at a path of nested tables, making the tables that are not there.

    Raises
    ------
    ScenarioError
        If something on the way is no table.
    """
    *outer, last = path
    for part in outer:
        if not isinstance(tables.setdefault(part, {}), dict):
            raise ScenarioError(f"{'.'.join(path)}: {part} is no table, so {last!r} cannot be set in it")
        tables = tables[part]
    tables[last] = value
