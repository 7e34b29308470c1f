"""What the columns of each of a profile's tables count, and files of schema version 1, which did not say it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvsim.profile.tables import Column, CostTable

_GROUPS: dict[str, Column] = {
    "segments": "sequences",
    "policies": "grid_pages",
    "link": "piece_bytes",
    "prefill": "cached_tokens",
    "serving": "none",
}
_CACHES: dict[str, Column] = {"forward": "cached_tokens", "rows": "row_bytes", "restore": "none", "store": "none"}


_NEW_NAMES = {"rows.books": "rows.accounting"}
"""Tables that version 1 called otherwise."""


def columns_of(name: str) -> Column | None:
    """Return what the columns of the table with this dotted name count; None of one that kvsim does not know.

    Examples
    --------
    >>> columns_of("segments.attention.host"), columns_of("caches.forward@2"), columns_of("caches.restore.host")
    ('sequences', 'cached_tokens', 'none')
    """
    group, _, rest = name.partition(".")
    return _GROUPS.get(group) if group != "caches" else _CACHES.get(rest.partition("@")[0].partition(".")[0])


def misnamed(tables: Mapping[str, CostTable]) -> Iterator[str]:
    """Yield a complaint for each table whose columns count something else than its place in a profile says."""
    for name, table in tables.items():
        expected = columns_of(name)
        if expected is not None and table.columns_are not in (expected, "none"):
            yield f"columns_are of {name} should be {expected!r}, found {table.columns_are!r}"


def upgraded(tables: dict[str, Any]) -> dict[str, Any]:
    """Return the tables of a profile of schema version 1 as version 2 has them: `columns` were called `batches`."""
    return {**_renamed(tables, ""), "schema_version": 2}


def _renamed(tables: dict[str, Any], name: str) -> dict[str, Any]:
    if "batches" in tables and "amounts" in tables:
        columns = {"columns": tables["batches"], "columns_are": columns_of(name) or "none"}
        return {key: value for key, value in tables.items() if key != "batches"} | columns
    return {
        _NEW_NAMES.get(key, key): _renamed(value, f"{name}.{key}" if name else key)
        if isinstance(value, dict)
        else value
        for key, value in tables.items()
    }
