"""A page as a test reads it: its tables by anchor, its data, and what it refers to."""

from __future__ import annotations

import base64
import gzip
import json
from html.parser import HTMLParser
from typing import Any


class PageReader(HTMLParser):
    """Collects tables, references and the texts of script elements."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tables: dict[str, list[dict[str, str]]] = {}
        """Rows by field name: the exact value of every cell, that is ``data-value``, else what is shown."""
        self.references: list[str] = []
        """Values of the attributes that a browser may load."""
        self.scripts: dict[str, str] = {}
        self.tags: set[str] = set()
        self._heads: dict[str, list[str]] = {}
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._table = ""
        self._row: list[str] = []
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.references += [str(found[name]) for name in ("src", "href", "action", "data", "poster") if name in found]
        self._open.append((tag, found))
        if tag == "table":
            self._table = str(found["id"])
            self.tables[self._table], self._heads[self._table] = [], []
        elif tag == "th":
            self._heads[self._table].append(str(found["data-name"]))
        elif tag == "tr":
            self._row = []
        elif tag == "td":
            self._row.append(str(found.get("data-value") or ""))

    def handle_data(self, data: str) -> None:
        tag, found = self._open[-1] if self._open else ("", {})
        if tag == "td" and "data-value" not in found:
            self._row[-1] += data
        elif tag == "script":
            name = str(found.get("id", "page"))
            self.scripts[name] = self.scripts.get(name, "") + data

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr" and self._row:
            self.tables[self._table].append(dict(zip(self._heads[self._table], self._row, strict=True)))
        while self._open and self._open.pop()[0] != tag:
            pass

    @property
    def charts(self) -> list[dict[str, Any]]:
        """What the figures draw."""
        found: list[dict[str, Any]] = json.loads(self.scripts["charts"])
        return found

    def all_rows(self, anchor: str) -> list[dict[str, str]]:
        """The rows of a long table, unpacked as the page's script does."""
        text = gzip.decompress(base64.b64decode(self.scripts[f"{anchor}-all"]))
        columns = [
            [shown if exact is None else exact for shown, exact in zip(part["texts"], part["values"], strict=True)]
            for part in json.loads(text)
        ]
        return [dict(zip(self._heads[anchor], row, strict=True)) for row in zip(*columns, strict=True)]
