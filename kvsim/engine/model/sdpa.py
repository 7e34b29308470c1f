"""Keeps torch's attention away from cuDNN, which on recent GPUs plans anew for every length of context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def leave_cudnn_out() -> None:
    """Have SDPA take flash or memory-efficient attention for the rest of the process.

    From some version on torch prefers cuDNN where the GPU is of compute capability 9.0 or 10.0. Its plans are kept by
    shape, length of the keys included, and making one takes the host tens of milliseconds: every decode step is longer
    by one token than the last, and would pay for that. Without a GPU nothing changes.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def cudnn_left_out() -> Iterator[None]:
    """Do so while the block lasts; see `leave_cudnn_out`."""
    before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    leave_cudnn_out()
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
