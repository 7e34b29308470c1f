"""Prompts in markup: which modules of a schema each selects, what its parameters get, and the new text at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kvsim.experiments.prompt_modules.schema.layout import path_of
from kvsim.experiments.prompt_modules.schema.markup import Tag, Words
from kvsim.experiments.prompt_modules.schema.schema import Module, Schema, Union
from kvsim.scenario.toml import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """What one prompt gives for one parameter."""

    text: str
    tag: Tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What one prompt asks for."""

    name: str
    selected: tuple[str, ...]
    """Paths of modules, in the order in which the prompt names them."""
    arguments: Mapping[tuple[str, str], Argument]
    """By path of the module and name of the parameter; a parameter without one stays out."""
    text: str
    """New text behind all modules."""


def parse_prompts(root: Tag, schema: Schema) -> tuple[Prompt, ...]:
    """Return the prompts of a ``<prompts>`` tag, or the one that a ``<prompt>`` tag is.

    A prompt names modules as tags, nested ones inside theirs, in any order; attributes are arguments; text stands
    behind the last module.

    Raises
    ------
    MarkupError
        Naming line and tag of the first error.
    """
    if root.name == "prompt":
        return (_prompt(root, schema, is_alone=True),)
    if root.name != "prompts":
        raise root.error(f'prompts begin with <prompts schema="..."> or <prompt>, not with <{root.name}>')
    root.check_attributes(("schema",))
    _check_schema(root, schema)
    prompts: dict[str, Prompt] = {}
    for part in root.parts:
        if isinstance(part, Words):
            if part.text.strip():
                raise root.error(f"holds text ({part.text.strip()[:30]!r}); text goes into a <prompt>")
            continue
        if part.name != "prompt":
            raise part.error(f"unknown tag in <prompts>{nearest(part.name, ('prompt',))}")
        prompt = _prompt(part, schema, is_alone=False)
        if prompt.name in prompts:
            raise part.error(f"{prompt.name!r} is a prompt already")
        prompts[prompt.name] = prompt
    if not prompts:
        raise root.error("holds no prompt")
    return tuple(prompts.values())


def _prompt(tag: Tag, schema: Schema, *, is_alone: bool) -> Prompt:
    tag.check_attributes(("name", "schema") if is_alone else ("name",))
    if is_alone:
        _check_schema(tag, schema)
    name = tag.own_name() if not is_alone or "name" in tag.attributes else "prompt"
    modules = [part for part in tag.parts if isinstance(part, Tag)]
    for place, part in enumerate(tag.parts):
        if isinstance(part, Words) and part.text.strip() and place != len(tag.parts) - 1:
            raise tag.parts[place + 1].error(  # type: ignore[union-attr]
                "stands behind text; new text goes behind the last module, and a module's words come from the schema"
            )
    last = tag.parts[-1] if tag.parts else None
    text = last.text.strip() if isinstance(last, Words) else ""
    if not text:
        raise tag.error("has no text behind its modules; a prompt ends with new text, which the model answers")
    selected: list[str] = []
    arguments: dict[tuple[str, str], Argument] = {}
    for path, module, use in _uses(modules, schema.modules, schema.parts, "", schema.name):
        selected.append(path)
        known = {parameter.name: parameter for parameter in module.parameters}
        use.check_attributes(known)
        arguments |= {
            (path, parameter): Argument(text=value, tag=use) for parameter, value in use.attributes.items() if value
        }
    return Prompt(name=name, selected=tuple(selected), arguments=arguments, text=text)


def _uses(
    tags: Iterable[Tag], modules: Iterable[Module], parts: Iterable[object], outer: str, owner: str
) -> Iterator[tuple[str, Module, Tag]]:
    """Yield path, module and tag of everything selected among `modules`, those nested in it next."""
    known = {module.name: module for module in modules if module.name is not None}
    unions = {member.name: part for part in parts if isinstance(part, Union) for member in part.members}
    met: dict[str, Tag] = {}
    taken: dict[int, str] = {}
    for tag in tags:
        if tag.name not in known:
            hint = nearest(tag.name, known) if known else "; it has none"
            raise tag.error(f"{owner!r} has no such module{hint}")
        if tag.name in met:
            raise tag.error(f"selected already in line {met[tag.name].line}")
        met[tag.name] = tag
        union = unions.get(tag.name)
        if union is not None:
            other = taken.setdefault(id(union), tag.name)
            if other != tag.name:
                raise tag.error(f"is of one union with <{other}>, which is selected: a prompt takes one of them")
        module = known[tag.name]
        path = path_of(outer, tag.name)
        yield path, module, tag
        inner = []
        for part in tag.parts:
            if isinstance(part, Tag):
                inner.append(part)
            elif part.text.strip():
                raise tag.error(f"holds text ({part.text.strip()[:30]!r}); its words come from the schema")
        yield from _uses(inner, module.modules, module.parts, path, path)


def _check_schema(tag: Tag, schema: Schema) -> None:
    named = tag.attribute("schema")
    if named != schema.name:
        raise tag.error(f"is for schema {named!r}, the schema in {schema.source} is {schema.name!r}")
