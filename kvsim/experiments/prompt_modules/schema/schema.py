"""A prompt schema: modules of text that prompts will reuse, with parameters, nested modules and unions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from kvsim.experiments.prompt_modules.schema.markup import Tag, Words
from kvsim.scenario.toml import nearest

MAX_PARAMETER_TOKENS = 65_536
"""Most tokens that one parameter may leave room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Text that is the same in every prompt."""

    text: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """Room for an argument that each prompt gives."""

    name: str
    max_tokens: int
    tag: Tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A piece of prompt that is encoded once."""

    name: str | None
    """None of text that stands in no module: every prompt has it."""
    tag: Tag
    parts: tuple[Part, ...]

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Its own parameters; those of nested modules are theirs."""
        return tuple(part for part in self.parts if isinstance(part, Parameter))

    @property
    def modules(self) -> tuple[Module, ...]:
        """The modules nested in it, those of unions too."""
        return nested_modules(self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Union:
    """Modules of which a prompt has one at most; all begin at the same position."""

    members: tuple[Module, ...]
    tag: Tag


Part: TypeAlias = Text | Parameter | Module | Union


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """Everything that prompts may select, in the order in which it will stand."""

    name: str
    source: str
    parts: tuple[Module | Union, ...]
    scaffolds: tuple[tuple[Tag, tuple[str, ...]], ...]
    """Paths of modules that are encoded together besides, for prompts that have them all; each with its tag."""

    @property
    def modules(self) -> tuple[Module, ...]:
        """The outermost modules, those of unions too."""
        return nested_modules(self.parts)


def nested_modules(parts: Iterable[Part]) -> tuple[Module, ...]:
    """Return the modules among `parts`, and the members of the unions among them."""
    contents: list[Module] = []
    for part in parts:
        if isinstance(part, Module):
            contents.append(part)
        elif isinstance(part, Union):
            contents += part.members
    return tuple(contents)


def parse_schema(root: Tag) -> Schema:
    """Return the schema that a ``<schema>`` tag describes.

    White space beside the tags of modules, unions and the schema itself is layout: the text of a module begins with
    its first word, and where text ends at such a tag it ends with one newline. Beside a parameter it counts.

    Raises
    ------
    MarkupError
        Naming line and tag of the first error.
    """
    if root.name != "schema":
        raise root.error(f'a schema begins with <schema name="...">, not with <{root.name}>')
    root.check_attributes(("name",))
    name = root.own_name()
    parts: list[Module | Union] = []
    for part in _parts(root, known=("module", "union", "scaffold")):
        if isinstance(part, Text):
            parts.append(Module(name=None, tag=root, parts=(part,)))
        else:
            assert isinstance(part, Module | Union)  # nothing else is known here
            parts.append(part)
    _check_unique(nested_modules(parts))
    scaffolds = tuple(_scaffold(part) for part in root.parts if isinstance(part, Tag) and part.name == "scaffold")
    if not parts:
        raise root.error("holds no module")
    return Schema(name=name, source=root.source, parts=tuple(parts), scaffolds=scaffolds)


def _parts(owner: Tag, known: tuple[str, ...]) -> list[Part]:
    """Return what lies in a tag: texts trimmed beside tags that are layout, and tags of the `known` names."""
    contents: list[Part] = []
    for place, part in enumerate(owner.parts):
        if isinstance(part, Words):
            text = _trimmed(part.text, _is_parameter(owner, place - 1), _is_parameter(owner, place + 1))
            if text:
                contents.append(Text(text=text, line=part.line))
        elif part.name not in known:
            raise part.error(f"unknown tag in <{owner.name}>{nearest(part.name, known)}")
        elif part.name == "parameter":
            contents.append(_parameter(part))
        elif part.name == "module":
            contents.append(_module(part))
        elif part.name == "union":
            contents.append(_union(part))
    return contents


def _is_parameter(owner: Tag, place: int) -> bool:
    part = owner.parts[place] if 0 <= place < len(owner.parts) else None
    return isinstance(part, Tag) and part.name == "parameter"


def _trimmed(text: str, joins_left: bool, joins_right: bool) -> str:
    if not joins_left:
        text = text.lstrip()
    if not joins_right:
        text = text.rstrip()
        text = f"{text}\n" if text or joins_left else ""
    return text


def _module(tag: Tag) -> Module:
    tag.check_attributes(("name",))
    name = tag.own_name()
    parts = tuple(_parts(tag, known=("parameter", "module", "union")))
    if not parts:
        raise tag.error("is empty; a module has text, parameters or modules")
    module = Module(name=name, tag=tag, parts=parts)
    _check_unique(module.modules)
    met: dict[str, Parameter] = {}
    for parameter in module.parameters:
        if parameter.name in met:
            raise parameter.tag.error(
                f"{parameter.name!r} is a parameter already, of line {met[parameter.name].tag.line}"
            )
        met[parameter.name] = parameter
    return module


def _check_unique(modules: Iterable[Module]) -> None:
    met: dict[str, Module] = {}
    for module in modules:
        if module.name is None:
            continue
        if module.name in met:
            raise module.tag.error(f"{module.name!r} is a module here already, of line {met[module.name].tag.line}")
        met[module.name] = module


def _union(tag: Tag) -> Union:
    tag.check_attributes(())
    members = []
    for part in tag.parts:
        if isinstance(part, Words):
            if part.text.strip():
                raise tag.error(f"holds text ({part.text.strip()[:30]!r}); a union holds modules only")
        elif part.name != "module":
            raise part.error(f"stands in a union, which holds modules only{nearest(part.name, ('module',))}")
        else:
            members.append(_module(part))
    if not members:
        raise tag.error("holds no module; a union has those of which a prompt takes one")
    return Union(members=tuple(members), tag=tag)


def _parameter(tag: Tag) -> Parameter:
    tag.check_attributes(("name", "length"))
    if tag.parts:
        raise tag.error("holds text; its argument comes with the prompt: write <parameter .../>")
    name, length = tag.own_name(), tag.attribute("length")
    if not (length.isascii() and length.isdigit() and 1 <= int(length[:9]) <= MAX_PARAMETER_TOKENS):
        raise tag.error(f"length={length[:30]!r} should be a number of tokens from 1 to {MAX_PARAMETER_TOKENS}")
    return Parameter(name=name, max_tokens=int(length), tag=tag)


def _scaffold(tag: Tag) -> tuple[Tag, tuple[str, ...]]:
    tag.check_attributes(("modules",))
    if any(isinstance(part, Tag) or part.text.strip() for part in tag.parts):
        raise tag.error('holds something; write <scaffold modules="..."/>')
    paths = tuple(tag.attribute("modules").split())
    if len(paths) < 2 or len(set(paths)) != len(paths):
        raise tag.error('modules should name two or more different modules, as in modules="contract rules/notice"')
    return tag, paths
