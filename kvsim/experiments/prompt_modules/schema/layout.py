"""Where each module of a schema lies: the positions of its text and parameters, alike in every prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from kvsim.experiments.prompt_modules.schema.markup import Tag
from kvsim.experiments.prompt_modules.schema.schema import Module, Parameter, Part, Schema, Text, Union
from kvsim.scenario.toml import nearest

LengthOf: TypeAlias = Callable[[str], int]
"""Returns the tokens of a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Consecutive positions of one module: a text, or the room of a parameter."""

    start: int
    num_tokens: int
    text: str | None
    """None of a parameter."""
    owner: str
    """Path of the module."""
    parameter: str | None = None

    @property
    def stop(self) -> int:
        """The position behind the last."""
        return self.start + self.num_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What is encoded alone and stored whole: a module's own text and parameters, or those of a scaffold's modules.

    Between its spans lie the positions of nested modules, which are units of their own.
    """

    number: int
    path: str
    members: tuple[str, ...]
    """Paths of the modules whose states these are."""
    spans: tuple[Span, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that are encoded, placeholders of parameters among them."""
        return sum(span.num_tokens for span in self.spans)

    @property
    def positions(self) -> list[int]:
        """The position of each token."""
        return [position for span in self.spans for position in range(span.start, span.stop)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A schema with a position for every token; `units` are numbered in its order, scaffolds behind all modules."""

    schema: Schema
    num_positions: int
    units: tuple[Unit, ...]
    scaffolds: tuple[Unit, ...]
    """Those of `units` that stand for several modules."""


def lay_out(schema: Schema, length_of: LengthOf) -> Layout:
    """Return where everything lies: one after another, the members of a union from the same position on.

    A union takes the room of its longest member, a parameter that of its length.

    Raises
    ------
    MarkupError
        If a scaffold names what is no module with text, or two members of one union.
    """
    placer = _Placer(length_of)
    end = placer.place_all(schema.parts, "", 0)
    units = [
        Unit(number=number, path=path, members=(path,), spans=tuple(spans))
        for number, (path, spans) in enumerate((path, spans) for path, spans in placer.spans.items() if spans)
    ]
    scaffolds: list[Unit] = []
    for tag, paths in schema.scaffolds:
        spans = _scaffold_spans(placer, tag, paths)
        number = len(units) + len(scaffolds)
        scaffolds.append(Unit(number=number, path=" + ".join(paths), members=paths, spans=tuple(spans)))
    return Layout(schema=schema, num_positions=end, units=(*units, *scaffolds), scaffolds=tuple(scaffolds))


def path_of(outer: str, name: str) -> str:
    """Return the path of a module below another, ``""`` for the schema itself."""
    return f"{outer}/{name}" if outer else name


class _Placer:
    def __init__(self, length_of: LengthOf) -> None:
        self._length_of = length_of
        self._num_texts = 0
        self.spans: dict[str, list[Span]] = {}
        """By path, in the order of the schema."""
        self.choices: dict[str, dict[int, str]] = {}
        """By path, the unions that it lies in, each with the member that it lies in."""

    def place_all(self, parts: Iterable[Part], outer: str, start: int) -> int:
        """Place modules and unions one behind the other; return the position behind the last."""
        for part in parts:
            if isinstance(part, Module):
                start = self._place(part, outer, start, {})
            elif isinstance(part, Union):
                ends = [self._place(member, outer, start, {id(part): str(member.name)}) for member in part.members]
                start = max(ends)
        return start

    def _place(self, module: Module, outer: str, start: int, choice: dict[int, str]) -> int:
        self._num_texts += module.name is None
        path = f"(text {self._num_texts})" if module.name is None else path_of(outer, module.name)
        self.choices[path] = self.choices.get(outer, {}) | choice
        spans = self.spans[path] = []
        position = start
        for part in module.parts:
            if isinstance(part, Text):
                spans.append(Span(start=position, num_tokens=self._length_of(part.text), text=part.text, owner=path))
            elif isinstance(part, Parameter):
                room = part.max_tokens
                spans.append(Span(start=position, num_tokens=room, text=None, owner=path, parameter=part.name))
            else:
                position = self.place_all((part,), path, position)
                continue
            position = spans[-1].stop
        return position


def _scaffold_spans(placer: _Placer, tag: Tag, paths: tuple[str, ...]) -> list[Span]:
    known = [path for path, spans in placer.spans.items() if spans and not path.startswith("(")]
    choices: dict[int, str] = {}
    for path in paths:
        if path not in known:
            raise tag.error(f"no module {path!r} with text in this schema{nearest(path, known)}")
        for union, member in placer.choices[path].items():
            if choices.setdefault(union, member) != member:
                raise tag.error(f"{choices[union]!r} and {member!r} are of one union: no prompt has both")
    own_spans = [span for path in paths for span in placer.spans[path]]
    return sorted(own_spans, key=lambda span: span.start)
