"""How a scenario's choice becomes a fresh policy: classes found by name, parts composed, arguments shared out.

A plug-in is a class that is imported by name, or, given as an object (`PlugIns`), a class or an instance. An instance
is a template: every run gets a deep copy of it, and a copy with a method ``prepare(setting)`` learns the sizes by it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from kvsim.errors import PolicyError, ScenarioError
from kvsim.policies.attribution import construct, is_own
from kvsim.policies.base import Policy, Setting
from kvsim.policies.baselines import PEERS
from kvsim.policies.composed import Paged
from kvsim.policies.plug_ins import PlugIn
from kvsim.policies.registry import (
    ADMISSIONS,
    NO_PLUG_INS,
    POLICIES,
    PREFETCHERS,
    Entry,
    PlugIns,
    find_entry,
    load_class,
)
from kvsim.scenario.toml import nearest

WHOLE = ("attends", "holds", "reads_selection", "start", "decide", "page_opened")
PARTS = {
    "evictor": ("arrived", "touch", "victims", "left"),
    "prefetcher": ("reads_speculation", "start", "opened", "wanted", "spared", "left"),
    "admission": ("touch", "first_out", "left"),
}
"""What a class must have to be a policy, or a part of one."""

STATED_VALUES: dict[str, tuple[str | bool, ...]] = {
    "attends": ("selection", "everything", "resident"),
    "holds": ("budget", "everything"),
    "reads_selection": (True, False),
}
"""What a policy class may state of itself."""

NONE, ALWAYS = "none", "always"


def find_policy(name: str, plug_ins: PlugIns = NO_PLUG_INS) -> type[Policy]:
    """Return the policy class called `name`: a built-in, or ``package.module:Class``. For an evictor it is `Paged`.

    One of `PEERS` is found too, though it decides nothing: `make_policy` refuses it.

    Raises
    ------
    ScenarioError
        If there is none, or the class lacks a part of the protocol.
    """
    entry = find_entry(POLICIES | PEERS, name, "policy")
    if entry is not None and entry.kind == "eviction":
        return Paged
    made_of = plug_ins[name] if name in plug_ins else load_class(entry.path if entry else name, f"policy {name!r}")
    loaded = made_of if isinstance(made_of, type) else type(made_of)
    if name in PEERS:
        return loaded
    if _is_evictor(loaded):
        return Paged
    _check_shape(loaded, WHOLE, f"policy {name!r}: not a policy class")
    for stated, values in STATED_VALUES.items():
        if getattr(loaded, stated) not in values:
            known = ", ".join(map(repr, values))
            raise ScenarioError(
                f"policy {name!r}: {stated} is {getattr(loaded, stated)!r}; it should be one of {known}"
            )
    return loaded


def make_policy(name: str, setting: Setting, arguments: Mapping[str, Any], plug_ins: PlugIns = NO_PLUG_INS) -> Policy:
    """Return a fresh policy for one run of one back end.

    An evictor takes ``prefetch = "NAME"``, ``admission = "NAME"`` and ``compiled = false`` beside its own arguments
    and those of the prefetcher and the admission. An argument that two of the parts know is made unambiguous by
    ``evict_NAME``, ``prefetch_NAME`` and ``admission_NAME``.

    Raises
    ------
    ScenarioError
        If a name or an argument is not known, or a value is impossible.
    """
    entry = find_entry(POLICIES | PEERS, name, "policy")
    what = f"policy {name!r}"
    if name in PEERS:
        raise ScenarioError(f"{what}: a peer to measure, not a policy: `kvsim measure` runs it, nothing simulates it")
    chosen = dict(arguments)
    is_compiled = _taken(chosen, "compiled", True, what) if entry is not None and entry.compiled else True
    loaded = _load(entry, name, what, plug_ins, is_compiled=is_compiled)
    if not _is_evictor(loaded):
        _check_shape(loaded, WHOLE, f"{what}: not a policy class")
        _check_known(chosen, _arguments_of(loaded), what)
        policy: Policy = _make(loaded, setting, chosen, what)
        return policy
    prefetch = _taken(chosen, "prefetch", NONE, what)
    admission = _taken(chosen, "admission", ALWAYS, what)
    parts = {
        "evict": loaded,
        "prefetch": _part(PREFETCHERS, prefetch, "prefetcher", plug_ins, is_compiled=is_compiled),
        "admission": _part(ADMISSIONS, admission, "admission", plug_ins, is_compiled=is_compiled),
    }
    shares = _share_out(chosen, parts, what)
    names = {"evict": what, "prefetch": f"prefetcher {prefetch!r}", "admission": f"admission {admission!r}"}
    made = {role: _make(part, setting, shares[role], names[role]) for role, part in parts.items()}
    return Paged(setting, made["evict"], made["prefetch"], made["admission"])


def cost_name(name: str, arguments: Mapping[str, Any]) -> str:
    """Return what a profile calls the cost of this policy's decisions: its name, and what is composed with it.

    ``dense`` decides as little as ``resident``, whose cost it has.

    Examples
    --------
    >>> cost_name("lru", {}), cost_name("lru", {"prefetch": "learned", "admission": "second-touch"})
    ('lru', 'lru+learned+second-touch')
    """
    parts = [arguments.get("prefetch", NONE), arguments.get("admission", ALWAYS)]
    parts = ["resident" if name == "dense" else name, *(str(part) for part in parts if part not in (NONE, ALWAYS))]
    return "+".join([*parts, "plain"] if arguments.get("compiled") is False else parts)


def part_arguments(loaded: type[Any]) -> dict[str, Any]:
    """Return the arguments that a class takes beside the setting, with their defaults; None where there is none."""
    parameters = inspect.signature(loaded).parameters
    return {
        name: None if parameters[name].default is inspect.Parameter.empty else parameters[name].default
        for name in _arguments_of(loaded)
    }


def _load(entry: Entry | None, name: str, what: str, plug_ins: PlugIns, *, is_compiled: bool) -> Any:
    """Return a class, or the instance that is plugged in under this name."""
    if name in plug_ins:
        return plug_ins[name]
    if entry is None:
        return load_class(name, what)
    return load_class(entry.compiled if entry.compiled and is_compiled else entry.path, what)


def _part(table: Mapping[str, Entry], name: str, role: str, plug_ins: PlugIns, *, is_compiled: bool) -> Any:
    what = f"{role} {name!r}"
    loaded = _load(find_entry(table, name, role), name, what, plug_ins, is_compiled=is_compiled)
    _check_shape(loaded, PARTS[role], f"{what}: not a class of this kind")
    return loaded


def _is_evictor(loaded: Any) -> bool:
    return hasattr(loaded, "victims") and not hasattr(loaded, "decide")


def _check_shape(loaded: Any, names: tuple[str, ...], complaint: str) -> None:
    missing = [part for part in names if not hasattr(loaded, part)]
    if missing:
        raise ScenarioError(f"{complaint}; it lacks {', '.join(missing)}")


def _arguments_of(loaded: Any) -> list[str]:
    if not isinstance(loaded, type):
        return []  # an instance has its arguments
    parameters = list(inspect.signature(loaded).parameters.values())[1:]
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [parameter.name for parameter in parameters if parameter.kind not in kinds]


def _taken(arguments: dict[str, Any], key: str, default: Any, what: str) -> Any:
    value = arguments.pop(key, default)
    if type(value) is not type(default):
        expected = "true or false" if isinstance(default, bool) else "a name in quotes"
        raise ScenarioError(f"{what}: {key} should be {expected}, found {value!r}")
    return value


def _share_out(arguments: Mapping[str, Any], parts: Mapping[str, Any], what: str) -> dict[str, dict[str, Any]]:
    """Return which part gets which argument."""
    known = {role: _arguments_of(part) for role, part in parts.items()}
    names = sorted({name for owned in known.values() for name in owned})
    shared_out: dict[str, dict[str, Any]] = {role: {} for role in parts}
    for argument, value in arguments.items():
        role, _, rest = argument.partition("_")
        if role in known and rest in known[role]:
            shared_out[role][rest] = value
            continue
        owners = [role for role, owned in known.items() if argument in owned]
        if not owners:
            _check_known([argument], [*names, "prefetch", "admission", "compiled"], what)
        if len(owners) > 1:
            options = " or ".join(repr(f"{owner}_{argument}") for owner in owners)
            raise ScenarioError(f"{what}: argument {argument!r} is known to {len(owners)} parts; say {options}")
        shared_out[owners[0]][argument] = value
    return shared_out


def _check_known(arguments: Any, known: list[str], what: str) -> None:
    for argument in arguments:
        if argument not in known:
            raise ScenarioError(f"{what}: unknown argument {argument!r}{nearest(argument, known)}")


def _make(loaded: Any, setting: Setting, arguments: Mapping[str, Any], what: str) -> Any:
    if not isinstance(loaded, type):
        return _prepared(loaded, setting, what)
    if not is_own(loaded):
        return PlugIn(construct(what, loaded, setting, **arguments), what, setting)
    try:
        return loaded(setting, **arguments)
    except (TypeError, ValueError) as problem:
        raise ScenarioError(f"{what}: {problem}") from None


def _prepared(template: Any, setting: Setting, what: str) -> PlugIn:
    """Return a copy of an instance that learned the sizes of its run."""
    try:
        own = copy.deepcopy(template)
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        raise PolicyError(f"{what}: every run needs a copy of it, and it cannot be copied: {problem}") from None
    plug_in = PlugIn(own, what, setting)
    if hasattr(own, "prepare"):
        plug_in.prepare(setting)
    return plug_in
