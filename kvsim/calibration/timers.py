"""The clocks of calibration: wall clock, repeated until the noise or the time cap says stop, and who else computed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kvsim.engine.paged.stamps import Stamps
from kvsim.types import FloatArray

_MIN_REPEATS = 5
_ENOUGH_FRAC = 0.01


def repeat_s(work: Callable[[], object], *, cap_s: float, warmups: int = 2, max_repeats: int = 200) -> FloatArray:
    """Return the wall-clock seconds of repeated calls of `work`.

    It repeats until the standard error of the median, by the 20th and 80th percentiles, is 1% of it, `cap_s` seconds
    have passed, or `max_repeats` calls were made.
    """
    for _ in range(warmups):
        work()
    times_s: list[float] = []
    ends_s = time.perf_counter() + cap_s
    while len(times_s) < max_repeats:
        started_s = time.perf_counter()
        work()
        ended_s = time.perf_counter()
        times_s.append(ended_s - started_s)
        if len(times_s) >= _MIN_REPEATS and (ended_s > ends_s or _is_enough(times_s)):
            break
    return np.array(times_s)


@contextmanager
def torch_threads(num_threads: int) -> Iterator[None]:
    """Let torch compute with so many threads while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Neighbours:
    """How much of a processor other programs used since this was made, a hypervisor's guests included; Linux only."""

    def __init__(self) -> None:
        self._started_s = time.perf_counter()
        self._busy_s = _busy_s()
        self._own_s = time.process_time()

    def busy_frac(self) -> float:
        """Return their processor time over the time that passed; 1 is one processor. 0 where it cannot be known."""
        passed_s = time.perf_counter() - self._started_s
        others_s = _busy_s() - self._busy_s - (time.process_time() - self._own_s)
        return max(0.0, others_s / passed_s) if passed_s > 0 else 0.0


def _busy_s() -> float:
    """Return the time that all processors were busy since the system started, or taken by the hypervisor."""
    path = Path("/proc/stat")
    if not path.is_file():
        return 0.0
    ticks = [int(word) for word in path.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _io_wait, interrupts, soft_interrupts, stolen = ticks
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


def _is_enough(times_s: list[float]) -> bool:
    low_s, median_s, high_s = np.quantile(times_s, (0.2, 0.5, 0.8))
    return bool((high_s - low_s) / len(times_s) ** 0.5 < _ENOUGH_FRAC * median_s)


def stamping_s() -> float:
    """Return what one layer's hook and stamps cost, timed on a module that does nothing."""
    bare, hooked, stamps = nn.Identity(), nn.Identity(), Stamps()

    def mark(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        del module, inputs
        stamps.mark()

    hooked.register_forward_pre_hook(mark)

    def call_s(work: Callable[[], object]) -> float:
        def often() -> None:
            for _ in range(2000):
                work()

        return float(np.median(repeat_s(often, cap_s=0.1)) / 2000)

    return max(0.0, call_s(lambda: hooked(None)) - call_s(lambda: bare(None)) + 9 * call_s(stamps.mark))
