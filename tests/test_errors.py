"""Errors cross a process boundary: of every class that there is, whatever its constructor takes."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import kvsim
from kvsim.errors import KvsimError, MarkupError, TraceError


def every_class() -> list[type[KvsimError]]:
    """Return every error class of the package."""
    for module in pkgutil.walk_packages(kvsim.__path__, "kvsim."):
        if not module.name.endswith(("__main__", "vllm.inside")):  # the latter runs in vLLM's own environment
            importlib.import_module(module.name)
    return sorted(_below(KvsimError), key=lambda kind: (kind.__module__, kind.__name__))


def _below(kind: type[KvsimError]) -> Iterator[type[KvsimError]]:
    yield kind
    for derived in kind.__subclasses__():
        yield from _below(derived)


def test_every_error_survives_a_process_boundary():
    kinds = every_class()
    assert {KvsimError, TraceError, MarkupError} < set(kinds)
    for kind in kinds:
        error = kind.__new__(kind, "a.csv:3: no number")
        error.__dict__["line"] = 3
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (kind, "a.csv:3: no number", {"line": 3})


def test_an_error_that_was_raised_in_another_process_is_itself():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        trace, markup = pool.submit(_refuse_trace).exception(), pool.submit(_refuse_markup).exception()
    assert (type(trace), str(trace)) == (TraceError, "a.csv:3: no number")
    assert (type(markup), str(markup)) == (MarkupError, "a.xml:7: <module>: not closed")


def _refuse_trace() -> None:
    raise TraceError("a.csv", "no number", line=3)


def _refuse_markup() -> None:
    raise MarkupError("a.xml", "not closed", line=7, tag="module")
