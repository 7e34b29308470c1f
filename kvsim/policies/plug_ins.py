"""Somebody else's policies: whatever goes wrong in one is reported under its name, with the lines of its own code.

A plug-in is called through a `PlugIn`, which hands over arrays that cannot be written to, keeps what the plug-in prints
off standard output, and refuses a result that the protocol does not allow before it reaches anything else.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kvsim.errors import PolicyError
from kvsim.policies.attribution import account_of, attribute
from kvsim.policies.base import Plan, Setting, View, read_only
from kvsim.policies.evictors.pools import Pools
from kvsim.types import BoolArray, PageIds

CALLED = (
    *("start", "decide", "page_opened", "foresee", "prepare"),  # whole policies
    *("arrived", "touch", "victims", "left"),  # evictors
    *("opened", "wanted", "spared", "fetched"),  # prefetchers
    "first_out",  # admissions
)
"""Methods of the protocols."""

STATED = ("attends", "holds", "reads_selection", "reads_speculation", "is_oracle")
"""What a policy or a part of one states of itself."""


class CalledWithCare:
    """An object that is not kvsim's own, some methods of which are called with care; it has all of its attributes.

    Parameters
    ----------
    what
        What error messages call it, as in ``policy 'my_package:Mine'``.
    methods
        Those to call with care, each with what checks its result: called with it and the arguments, it returns it.
    """

    def __init__(self, own: Any, what: str, methods: Mapping[str, Callable[..., Any] | None]) -> None:
        self._own = own
        self.shown_name = what
        self._moment = ""
        for name, check in methods.items():
            method = attribute(what, own, name)
            if callable(method):
                setattr(self, name, self._careful(name, method, check))

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the object itself."""
        if name.startswith("__") or name == "_own":  # while a copy is being made
            raise AttributeError(name)
        return getattr(self._own, name)

    def _careful(self, name: str, method: Callable[..., Any], check: Callable[..., Any] | None) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            for argument in arguments:
                if isinstance(argument, View):
                    self._moment = f"step {argument.step}, layer {argument.layer}: "
            shown = [read_only(one) if isinstance(one, np.ndarray) else one for one in arguments]
            printed_to, sys.stdout = sys.stdout, sys.stderr
            try:
                result = method(*shown)
            except KeyboardInterrupt:
                raise
            except BaseException as problem:
                where = f"{self.shown_name}: {self._moment}{name}"
                raise PolicyError(account_of(problem, where, type(self._own).__module__)) from None
            finally:
                sys.stdout = printed_to
            return result if check is None else check(result, *arguments)

        return call

    def _refused(self, problem: str) -> PolicyError:
        return PolicyError(f"{self.shown_name}: {self._moment}{problem}")


class PlugIn(CalledWithCare):
    """A policy, or a part of one, that is not kvsim's own."""

    def __init__(self, own: Any, what: str, setting: Setting) -> None:
        self._setting = setting
        self._pools = Pools(setting)
        checks: dict[str, Callable[..., Any]] = {
            "decide": self._plan,
            "victims": self._victims,
            "first_out": self._first_out,
            "wanted": self._candidates,
            "spared": self._spared,
        }
        super().__init__(own, what, {name: checks.get(name) for name in CALLED})
        for name in STATED:
            value = attribute(what, own, name)
            if value is not None:
                setattr(self, name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> PlugIn:
        """Return the same around a copy of the plug-in."""
        copied = PlugIn(copy.deepcopy(self._own, memo), self.shown_name, self._setting)
        copied._moment = self._moment
        return copied

    def _plan(self, plan: Any, view: View) -> Plan:
        if not (hasattr(plan, "victims") and hasattr(plan, "prefetches")):
            raise self._refused(f"decide returns {_kind(plan)}, where a Plan is needed")
        return Plan(
            victims=self._page_ids(plan.victims, "Plan.victims", view),
            prefetches=self._page_ids(plan.prefetches, "Plan.prefetches", view),
        )

    def _victims(self, victims: Any, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        pages = self._leaving(victims, "victims", view, pool, count, spared)
        if pages.size < count:
            num_others = self._pools.candidates(view.evictable, pool, spared).size - pages.size
            if num_others > 0:
                raise self._refused(f"victims names {pages.size} of {count} pages, though {num_others} more may leave")
        return pages

    def _first_out(self, pages: Any, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        return self._leaving(pages, "first_out", view, pool, count, spared)

    def _leaving(self, value: Any, name: str, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return pages that leave one pool, or refuse them."""
        pages = self._page_ids(value, name, view)
        if pages.size > count:
            raise self._refused(f"{name} returns {pages.size} pages, {count} were asked for")
        allowed = view.evictable[pages] if spared is None else view.evictable[pages] & ~spared[pages]
        if not allowed.all():
            page = int(pages[~allowed][0])
            raise self._refused(f"{name} returns page {page}, which may not leave now (view.evictable, spared)")
        if self._pools.count > 1 and (self._setting.grid.layer_of(pages) != pool).any():
            raise self._refused(f"{name} returns a page of another layer than {pool}, whose pool was asked for")
        return pages

    def _candidates(self, returned: Any, view: View) -> PageIds:
        pages = self._page_ids(returned, "wanted", view)
        if pages.size > view.prefetch_quota:
            raise self._refused(f"wanted returns {pages.size} pages, the quota is {view.prefetch_quota}")
        if not view.prefetchable[pages].all():
            page = int(pages[~view.prefetchable[pages]][0])
            raise self._refused(f"wanted returns page {page}, which cannot be prefetched now (view.prefetchable)")
        return pages

    def _spared(self, spared: Any, view: View) -> BoolArray | None:
        if spared is None:
            return None
        size = view.evictable.size
        if not isinstance(spared, np.ndarray) or spared.dtype != np.bool_ or spared.shape != (size,):
            raise self._refused(f"spared returns {_kind(spared)}, where None or {size} truth values are needed")
        return spared

    def _page_ids(self, value: Any, name: str, view: View) -> PageIds:
        """Return an array of different page ids, or refuse it."""
        is_array = isinstance(value, np.ndarray) and value.ndim == 1
        if not is_array or (value.size and value.dtype.kind not in "iu"):
            raise self._refused(f"{name} is {_kind(value)}, where a one-dimensional array of page ids is needed")
        size = view.evictable.size
        if value.size and not (value.min() >= 0 and value.max() < size):
            page = int(value[(value < 0) | (value >= size)][0])
            raise self._refused(f"{name} has page {page}, where ids go from 0 to {size - 1}")
        if np.unique(value).size != value.size:
            raise self._refused(f"{name} has a page twice")
        pages: PageIds = value.astype(np.int64)  # a copy: what the plug-in keeps it may change
        return pages


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {list(value.shape)} and dtype {value.dtype}"
    return "None" if value is None else f"a {type(value).__name__}"
