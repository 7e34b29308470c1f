"""The built-in policies by name, and how a scenario's choice becomes a fresh policy object.

Adding one: a file beside this and a line in `POLICIES`. Somebody else's policy needs neither: a scenario names
``package.module:Class``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from kvsim.errors import ScenarioError
from kvsim.policies.attention import Attention
from kvsim.policies.base import NOTHING, Plan, Policy, Setting, View
from kvsim.policies.lru import Lru
from kvsim.policies.residency import Decision, Residency
from kvsim.policies.resident import Resident
from kvsim.policies.stream import Stream
from kvsim.strict import nearest

__all__ = [
    "NOTHING",
    "POLICIES",
    "Decision",
    "Plan",
    "Policy",
    "Residency",
    "Setting",
    "View",
    "find_policy",
    "make_policy",
]

POLICIES: dict[str, type[Policy]] = {
    "resident": Resident,
    "stream": Stream,
    "lru": Lru,
    "attention": Attention,
}


def find_policy(name: str) -> type[Policy]:
    """Return the policy class called `name`: a built-in, or ``package.module:Class``.

    Raises
    ------
    ScenarioError
        If there is none, or the class lacks a part of the protocol.
    """
    if ":" not in name:
        if name not in POLICIES:
            raise ScenarioError(f"unknown policy {name!r}{nearest(name, POLICIES)} (or package.module:Class)")
        return POLICIES[name]
    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, ValueError) as problem:
        raise ScenarioError(f"policy {name!r}: cannot import {module_name!r}: {problem}") from None
    except AttributeError:
        raise ScenarioError(f"policy {name!r}: {module_name!r} has no {class_name!r}") from None
    wanted = ("attends", "holds", "reads_selection", "start", "decide", "page_opened")
    missing = [part for part in wanted if not hasattr(found, part)]
    if not isinstance(found, type) or missing:
        raise ScenarioError(f"policy {name!r}: not a policy class; it lacks {', '.join(missing) or 'a type'}")
    return found


def make_policy(name: str, setting: Setting, arguments: Mapping[str, Any]) -> Policy:
    """Return a fresh policy for one run of one back end."""
    policy_class: Any = find_policy(name)
    known = [
        parameter.name
        for parameter in inspect.signature(policy_class).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    for argument in arguments:
        if argument not in known[1:]:
            raise ScenarioError(f"policy {name!r}: unknown argument {argument!r}{nearest(argument, known[1:])}")
    try:
        policy: Policy = policy_class(setting, **arguments)
    except (TypeError, ValueError) as problem:
        raise ScenarioError(f"policy {name!r}: {problem}") from None
    return policy
