"""Who works beside this process: processes of its own, which end when it ends, however that is, or a cluster's."""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import joblib

from kvsim.errors import KvsimError

T = TypeVar("T")

_LOOK_EVERY_S = 1.0
_CONNECT_S = 5.0

_watched = threading.Event()
"""Set once in a worker whose parent is watched."""


def in_worker(parent: int, work: Callable[..., T], *arguments: object) -> T:
    """Return ``work(*arguments)`` in a worker that process `parent` started, which ends when `parent` is gone.

    A parent that is killed closes nothing: its workers would wait for work for ever. Where `parent` is this process
    itself, as where joblib sees no use for another, there is nothing to watch.
    """
    if os.getpid() != parent and not _watched.is_set():
        _watched.set()
        threading.Thread(target=_end_with, args=(parent,), name="kvsim-end-with-parent", daemon=True).start()
    return work(*arguments)


def _end_with(parent: int) -> None:
    never = threading.Event()
    while os.getppid() == parent:
        never.wait(_LOOK_EVERY_S)
    os._exit(1)  # not sys.exit: nobody is left to read what is in the pipes


def processes(num_workers: int) -> AbstractContextManager[Any]:
    """Let joblib share work out to processes of this machine, arithmetic in one thread each."""
    backend: AbstractContextManager[Any] = joblib.parallel_config("loky", n_jobs=num_workers, inner_max_num_threads=1)
    return backend


@contextmanager
def cluster(scheduler: str) -> Iterator[None]:
    """Let joblib share work out to the workers of a dask scheduler, which keep to one thread by themselves.

    Raises
    ------
    KvsimError
        If dask is not installed, or nobody listens at the address.
    """
    if importlib.util.find_spec("distributed") is None:
        raise KvsimError("--dask needs the package distributed: pip install distributed")
    _check_listens(scheduler)
    client = importlib.import_module("distributed").Client(scheduler, timeout=_CONNECT_S)
    with client, joblib.parallel_config("dask", n_jobs=-1):
        yield


def _check_listens(scheduler: str) -> None:
    """Refuse an address where nobody listens: dask itself tries for half a minute, and ends in a traceback."""
    addressing = importlib.import_module("distributed.comm.addressing")
    try:
        protocol, place = addressing.parse_address(scheduler)
        host, port = addressing.parse_host_port(place)
    except ValueError:
        raise KvsimError(f"--dask {scheduler!r}: no address of a scheduler, as in tcp://10.0.0.1:8786") from None
    if protocol not in ("tcp", "tls"):
        return  # not for a plain socket to try
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise KvsimError(f"--dask {scheduler}: no scheduler listens there: {reason}") from None
