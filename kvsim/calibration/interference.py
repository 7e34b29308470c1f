"""Times what copies that run beside it do to compute."""

from __future__ import annotations

import numpy as np
import torch

from kvsim.calibration.bench import MAX_ROUNDS, WARMUP_STEPS, Bench, step_parts
from kvsim.calibration.fit import slowdown_frac
from kvsim.calibration.links import filled_pool
from kvsim.calibration.timers import Neighbours
from kvsim.engine.links.base import Transfer
from kvsim.engine.paged.stamps import LAYER_PARTS, Stamps
from kvsim.types import FloatArray

_QUIET_FRAC = 0.05
"""Share of a processor that other programs may use in a run that needs two for itself."""

_COMPUTE = ("embed", "attention_input", "select", "sync", "choose", "attention", "attention_output", "head")


def compute_slowdown_frac(bench: Bench) -> float:
    """Return how much longer the compute of a step takes while transfers to the device run all through it.

    Steps with and without copies take turns, so that a drift of the machine counts for neither. It needs two processors
    to itself: of up to three tries, the one that other programs disturbed least counts.
    """
    tries: list[tuple[float, float]] = []
    for _ in range(MAX_ROUNDS):
        neighbours = Neighbours()
        frac = _slowdown_try(bench)
        tries.append((neighbours.busy_frac(), frac))
        if tries[-1][0] < _QUIET_FRAC:
            break
    return min(tries)[1]


def _slowdown_try(bench: Bench) -> float:
    num_steps = WARMUP_STEPS + bench.plan.num_slowed_steps
    page_tokens = bench.plan.middle_page_tokens
    with bench.decoder(
        "resident",
        page_tokens=page_tokens,
        num_sequences=1,
        context_tokens=bench.plan.decided_contexts_tokens[1],
        max_steps=num_steps,
    ) as (decoder, schedule, stamps, _):
        schedule.attend(bench.plan.decided_pages[1])
        beside = _BigCopies(bench.tokens) if bench.tokens.is_pinned() else _Beside(bench, page_tokens)
        step_s = 0.1
        for step in range(num_steps):
            if step % 2:
                beside.keep_busy(2 * step_s)
            step_s = bench.step(decoder).step_s
            bench.advance(1)
            beside.rest()
        beside.close()
    total_s = _compute_s(stamps, bench.num_layers)[WARMUP_STEPS:]
    return slowdown_frac(total_s[1::2].tolist(), total_s[::2].tolist())


def _compute_s(stamps: Stamps, num_layers: int) -> FloatArray:
    """Return the compute of each step, ``[num_steps]``."""
    parts = step_parts(stamps, num_layers)
    by_part = [parts[name] * (num_layers if name in LAYER_PARTS else 1) for name in _COMPUTE]
    total_s: FloatArray = np.sum(by_part, axis=0)
    return total_s


class _Beside:
    """A link of its own that copies between pools of its own, beside the run that is timed."""

    def __init__(self, bench: Bench, page_tokens: int) -> None:
        pool = filled_pool(bench.tokens, page_tokens, 64, device=bench.model.device.type)
        self._slots = pool.slot_of
        self._chunk_s = 4 * pool.page_bytes / bench.bandwidth_bytes_per_s
        self.link = bench.make_link(pool)

    def keep_busy(self, time_s: float) -> None:
        """Queue transfers of four pages for at least `time_s`, and let the first one start."""
        for chunk in range(int(time_s / self._chunk_s) + 1):
            pages = (np.arange(4) + 4 * chunk) % len(self._slots)
            self.link.submit(Transfer(kind="demand", pages=pages, slots=self._slots[pages], step=0))

    def rest(self) -> None:
        """Wait until all is copied."""
        self.link.drain()

    def close(self) -> None:
        """End the link."""
        self.link.close()


class _BigCopies:
    """A copy stream of a GPU kept busy by blocks so large that handing them over takes the host next to nothing."""

    _BLOCK_BYTES = 1 << 28
    _MOST_BYTES_PER_S = 60e9  # of PCIe 5 x16; on a faster link the copies end before the step does

    def __init__(self, tokens: torch.Tensor) -> None:
        flat = tokens.view(-1)
        self._source = flat[: min(flat.numel(), self._BLOCK_BYTES // flat.element_size())]
        self._target = torch.empty(self._source.shape, dtype=flat.dtype, device="cuda")
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def keep_busy(self, time_s: float) -> None:
        """Queue copies for at least `time_s`."""
        with torch.cuda.stream(self._stream):
            for _ in range(int(time_s * self._MOST_BYTES_PER_S / self._source.nbytes) + 1):
                self._target.copy_(self._source, non_blocking=True)

    def rest(self) -> None:
        """Wait until all is copied."""
        self._stream.synchronize()

    def close(self) -> None:
        """Nothing is left to end."""
