"""What one prompt takes from the store, what it computes itself, and at which positions."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.experiments.prompt_modules.schema.layout import Layout, LengthOf, Span, Unit
from kvsim.experiments.prompt_modules.schema.prompts import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Tokens of one unit that a prompt reads: what lies between placeholders."""

    unit: int
    """Number of the unit."""
    start: int
    """First token, counted in the unit."""
    stop: int
    position: int
    """Position of the first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fresh:
    """Text that only this prompt has: an argument, or the new text at its end."""

    text: str
    num_tokens: int
    position: int
    """Position of its first token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """One prompt put together from a layout."""

    name: str
    units: tuple[int, ...]
    """Numbers of the units read, by position: what is looked up in the store, in this order."""
    parts: tuple[Part, ...]
    """By position; the states of placeholders are left out."""
    fresh: tuple[Fresh, ...]
    """By position, the new text last."""
    texts: tuple[str, ...]
    """The whole prompt by position: what full attention reads in its place."""

    @property
    def reused_tokens(self) -> int:
        """Tokens whose states come from units."""
        return sum(part.stop - part.start for part in self.parts)

    @property
    def fresh_tokens(self) -> int:
        """Tokens that are computed for this prompt alone."""
        return sum(fresh.num_tokens for fresh in self.fresh)

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt."""
        return self.reused_tokens + self.fresh_tokens

    @property
    def end(self) -> int:
        """The position behind the new text: that of the first token generated."""
        return self.fresh[-1].position + self.fresh[-1].num_tokens


def assemble(
    layout: Layout, prompt: Prompt, length_of: LengthOf, *, around: tuple[str, str] = ("", ""), scaffolds: bool = False
) -> Assembly:
    """Return what a prompt takes from the units of its layout.

    An argument lies at its parameter's positions from the first on; positions that it does not fill stay empty. New
    text lies behind the last token before it.

    Parameters
    ----------
    around
        What every prompt has before and behind its new text, such as the turns of a chat.
    scaffolds
        Read the states of a scaffold where all of its modules are selected.

    Raises
    ------
    MarkupError
        If an argument is longer than its parameter's length.
    """
    units = _units(layout, prompt, scaffolds=scaffolds)
    parts: list[Part] = []
    fresh: list[Fresh] = []
    texts: list[tuple[int, str]] = []
    for unit in units:
        token = 0
        for span in unit.spans:
            if span.text is not None:
                part = Part(unit=unit.number, start=token, stop=token + span.num_tokens, position=span.start)
                parts.append(part)
                texts.append((span.start, span.text))
            elif (argument := _argument(prompt, span, length_of)) is not None:
                fresh.append(argument)
                texts.append((span.start, argument.text))
            token += span.num_tokens
    parts.sort(key=lambda part: part.position)
    fresh.sort(key=lambda run: run.position)
    ends = [part.position + part.stop - part.start for part in parts]
    ends += [run.position + run.num_tokens for run in fresh]
    text = f"{around[0]}{prompt.text}{around[1]}"
    new = Fresh(text=text, num_tokens=length_of(text), position=max(ends, default=0))
    return Assembly(
        name=prompt.name,
        units=tuple(unit.number for unit in units),
        parts=tuple(_joined(parts)),
        fresh=(*fresh, new),
        texts=(*(text for _, text in sorted(texts)), new.text),
    )


def _units(layout: Layout, prompt: Prompt, *, scaffolds: bool) -> list[Unit]:
    """Return the units that a prompt reads, by position: of its modules, and of text that stands in none."""
    selected = set(prompt.selected)
    units = []
    for unit in layout.scaffolds if scaffolds else ():
        if selected.issuperset(unit.members):
            selected.difference_update(unit.members)
            units.append(unit)
    for unit in layout.units:
        if len(unit.members) == 1 and (unit.path in selected or unit.path.startswith("(")):
            units.append(unit)
    return sorted(units, key=lambda unit: unit.spans[0].start)


def _argument(prompt: Prompt, span: Span, length_of: LengthOf) -> Fresh | None:
    argument = prompt.arguments.get((span.owner, str(span.parameter)))
    if argument is None:
        return None
    num_tokens = length_of(argument.text)
    if num_tokens > span.num_tokens:
        raise argument.tag.error(
            f"{span.parameter}={argument.text[:40]!r} has {num_tokens} tokens, the parameter's length is "
            f"{span.num_tokens}: shorten it, or give the parameter more length in the schema"
        )
    return Fresh(text=argument.text, num_tokens=num_tokens, position=span.start)


def _joined(parts: list[Part]) -> list[Part]:
    """Return the parts with those made one that follow each other in one unit and in position."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if last is not None and last.unit == part.unit and last.position + last.stop - last.start == part.position:
            part = Part(unit=part.unit, start=last.start, stop=part.stop, position=last.position)
            joined.pop()
        joined.append(part)
    return joined
