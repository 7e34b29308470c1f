"""Policies given as objects: the names that a scenario gives them, and the objects by these names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from kvsim.errors import ScenarioError
from kvsim.policies.registry import PlugIns
from kvsim.scenario.decode import PolicyChoice

Policy: TypeAlias = str | PolicyChoice | Mapping[str, Any] | type[Any] | object
Policies: TypeAlias = Sequence[Policy]


def policy_choices(policies: Policies) -> tuple[list[dict[str, Any]], PlugIns]:
    """Return policies as a scenario holds them, and the classes and instances among them by name.

    An object is named by its class, as in ``__main__:Mine``; a second object of one class gets a number. Tables show
    the class's own name, unless a label is given.

    Raises
    ------
    ScenarioError
        If one is none of what `kvsim.run` takes.

    Examples
    --------
    >>> class Mine: ...
    >>> choices, plug_ins = policy_choices(["lru", Mine, {"name": Mine, "arguments": {"k": 2}, "label": "k = 2"}])
    >>> [(choice["name"].partition(":")[2], choice.get("label")) for choice in choices[1:]]
    [('Mine', 'Mine'), ('Mine', 'k = 2')]
    """
    if isinstance(policies, str | Mapping | type) or not isinstance(policies, Sequence):
        raise ScenarioError("policies should be a list, as in policies=['resident', 'lru', MyPolicy]")
    plug_ins: dict[str, Any] = {}
    return [_choice(policy, plug_ins) for policy in policies], plug_ins


def _choice(policy: Policy, plug_ins: dict[str, Any]) -> dict[str, Any]:
    if isinstance(policy, PolicyChoice):
        policy = policy.model_dump(exclude_none=True)
    if policy is None:
        raise ScenarioError("policies: each is a name, a class, an instance or a table of these, found None")
    if not isinstance(policy, Mapping):
        policy = {"name": policy}
    if policy.get("name") is None:
        raise ScenarioError(f"policies: a table needs a name, found {sorted(policy)}")
    choice = dict(policy)
    name = choice["name"]
    choice["name"] = _named(name, plug_ins)
    if not isinstance(name, str):
        choice.setdefault("label", _kind(name).__name__)
    arguments = choice.get("arguments", {})
    if arguments:
        choice["arguments"] = {key: _argument(value, plug_ins) for key, value in arguments.items()}
    return choice


def _argument(value: Any, plug_ins: dict[str, Any]) -> Any:
    """Return an argument; a class or an instance that is a part of a policy by its name."""
    is_plain = value is None or isinstance(value, str | int | float | bool | list | tuple)
    return value if is_plain else _named(value, plug_ins)


def _named(made_of: Any, plug_ins: dict[str, Any]) -> str:
    if isinstance(made_of, str):
        return made_of
    kind = _kind(made_of)
    first = f"{kind.__module__}:{kind.__qualname__}"
    name, number = first, 1
    while name in plug_ins and plug_ins[name] is not made_of:
        number += 1
        name = f"{first}#{number}"
    plug_ins[name] = made_of
    return name


def _kind(made_of: Any) -> type[Any]:
    return made_of if isinstance(made_of, type) else type(made_of)
