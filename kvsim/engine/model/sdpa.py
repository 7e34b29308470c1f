"""Keeps torch's attention away from cuDNN, which on recent GPUs plans anew for every length of context."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass(slots=True)
class _Blocks:
    """The blocks that leave cuDNN out now, in whatever threads: torch has one switch for the whole process."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    count: int = 0
    before: bool = False
    """How the switch was before the first of them."""


_BLOCKS = _Blocks()


def leave_cudnn_out() -> None:
    """Have SDPA take flash or memory-efficient attention for the rest of the process.

    From some version on torch prefers cuDNN where the GPU is of compute capability 9.0 or 10.0. Its plans are kept by
    shape, length of the keys included, and making one takes the host tens of milliseconds: every decode step is longer
    by one token than the last, and would pay for that. Without a GPU nothing changes.
    """
    with _BLOCKS.lock:
        _BLOCKS.before = False
        torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def cudnn_left_out() -> Iterator[None]:
    """Do so while the block lasts, and any such block of another thread; see `leave_cudnn_out`."""
    with _BLOCKS.lock:
        if not _BLOCKS.count:
            _BLOCKS.before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
            torch.backends.cuda.enable_cudnn_sdp(False)
        _BLOCKS.count += 1
    try:
        yield
    finally:
        with _BLOCKS.lock:
            _BLOCKS.count -= 1
            if not _BLOCKS.count:
                torch.backends.cuda.enable_cudnn_sdp(_BLOCKS.before)
