"""Prompt markup as a tree of tags with their lines: XML with nothing that expands, refers or reaches outside."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from kvsim.errors import MarkupError
from kvsim.scenario.regular_files import read_bytes
from kvsim.scenario.toml import nearest

MAX_MARKUP_BYTES = 16 * 2**20
"""No schema or prompt is larger; a larger one is refused before it is parsed."""
MAX_DEPTH = 64
"""Tags may be nested so deep."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Text between tags, as it stands in the file."""

    text: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """One element: what it is called, what its attributes say, and what lies in it."""

    source: str
    name: str
    line: int
    attributes: Mapping[str, str]
    parts: tuple[Tag | Words, ...] = ()

    def error(self, problem: str) -> MarkupError:
        """Return the error that says what is wrong with this tag."""
        return MarkupError(self.source, problem, line=self.line, tag=self.name)

    def attribute(self, name: str) -> str:
        """Return an attribute that must be there.

        Raises
        ------
        MarkupError
            If it is not.
        """
        if name not in self.attributes:
            raise self.error(f'has no {name}; write {name}="..."')
        return self.attributes[name]

    def own_name(self) -> str:
        """Return attribute `name`, which must be one: a letter or '_' first, then letters, digits, '_', '.' and '-'."""
        value = self.attribute("name")
        if not _NAME.fullmatch(value):
            raise self.error(
                f"name={value[:60]!r} is no name; up to 64 letters, digits, '_', '.' and '-' are, a letter first"
            )
        return value

    def check_attributes(self, known: Iterable[str]) -> None:
        """Refuse attributes other than `known`.

        Raises
        ------
        MarkupError
            Naming the first unknown one and the nearest known.
        """
        allowed = list(known)
        for name in self.attributes:
            if name not in allowed:
                hint = nearest(name, allowed) if allowed else "; it takes none"
                raise self.error(f"unknown attribute {name!r}{hint}")


def read_markup(path: Path) -> Tag:
    """Return the outermost tag of a file.

    Raises
    ------
    MarkupError
        As `parse_markup` does, and if the file cannot be read.
    """
    try:
        content = read_bytes(path, MAX_MARKUP_BYTES)
    except OSError as problem:
        raise MarkupError(path, f"cannot be read: {problem.strerror}", line=1) from None
    return parse_markup(content, str(path))


def parse_markup(content: bytes | str, source: str) -> Tag:
    """Return the outermost tag of prompt markup.

    Only the five entities that XML itself has and character references are known; a document type, and with it any
    entity of its own, is refused where it begins, so that nothing can expand or be fetched.

    Parameters
    ----------
    source
        What errors call the text.

    Raises
    ------
    MarkupError
        With the line, if it is no UTF-8, not well-formed, nested too deep, or has a document type.
    """
    return _Reader(source).read(content)


@dataclass(slots=True)
class _Open:
    name: str
    line: int
    attributes: Mapping[str, str]
    parts: list[Tag | Words] = field(default_factory=list)
    chunks: list[str] = field(default_factory=list)
    """Text since the last tag, as the parser hands it over: line by line."""
    chunks_line: int = 0

    def flush(self) -> None:
        """Make one text of the chunks."""
        if self.chunks:
            self.parts.append(Words(text="".join(self.chunks), line=self.chunks_line))
            self.chunks.clear()


class _Reader:
    def __init__(self, source: str) -> None:
        self._source = source
        self._stack: list[_Open] = []
        self._root: Tag | None = None
        self._parser = expat.ParserCreate("utf-8")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._words
        refuse = self._refuse("a document type (<!DOCTYPE ...>) is not allowed in prompt markup; leave it out")
        self._parser.StartDoctypeDeclHandler = refuse
        self._parser.EntityDeclHandler = refuse
        self._parser.ExternalEntityRefHandler = refuse
        self._parser.ProcessingInstructionHandler = self._refuse("a processing instruction (<?...?>) is not allowed")

    def read(self, content: bytes | str) -> Tag:
        try:
            raw = content.encode() if isinstance(content, str) else content
            raw.decode()
        except UnicodeError:
            raise MarkupError(self._source, "not UTF-8 text", line=1) from None
        try:
            self._parser.Parse(raw, True)
        except expat.ExpatError as problem:
            what = expat.ErrorString(problem.code) or "not well-formed"
            inside = f", inside <{self._stack[-1].name}> of line {self._stack[-1].line}" if self._stack else ""
            raise MarkupError(self._source, f"{what}{inside}", line=problem.lineno) from None
        assert self._root is not None  # expat has refused a text without an element
        return self._root

    @property
    def _line(self) -> int:
        return self._parser.CurrentLineNumber

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        if len(self._stack) == MAX_DEPTH:
            raise MarkupError(self._source, f"nested deeper than {MAX_DEPTH} tags", line=self._line, tag=name)
        if self._stack:
            self._stack[-1].flush()
        self._stack.append(_Open(name, self._line, dict(attributes)))

    def _end(self, name: str) -> None:
        done = self._stack.pop()
        done.flush()
        tag = Tag(source=self._source, name=name, line=done.line, attributes=done.attributes, parts=tuple(done.parts))
        if self._stack:
            self._stack[-1].parts.append(tag)
        else:
            self._root = tag

    def _words(self, text: str) -> None:
        if self._stack:
            inside = self._stack[-1]
            if not inside.chunks:
                inside.chunks_line = self._line
            inside.chunks.append(text)

    def _refuse(self, problem: str) -> Callable[..., NoReturn]:
        def refuse(*_: object) -> NoReturn:
            raise MarkupError(self._source, problem, line=self._line)

        return refuse
