"""The same costs on a GPU: device time from events behind a pre-filled queue, host time from the wall clock.

Written where no GPU was available: it has not run yet.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kvsim.calibration.bench import Bench
from kvsim.calibration.fit import Sample, slowdown_frac
from kvsim.calibration.links import copy_of, filled_pool
from kvsim.calibration.plan import Plan
from kvsim.calibration.timers import repeat_s
from kvsim.engine.links.base import TransferKind
from kvsim.engine.links.cuda import CudaLink, Mechanism, cycles_per_s, timed_event
from kvsim.engine.paged.stamps import LAYER_PARTS, Stamps, parts_of
from kvsim.types import FloatArray

_QUEUE_S = 4e-3
"""How long a pre-filled queue sleeps: longer than the host takes to launch a layer."""

_MECHANISMS: tuple[Mechanism, ...] = ("memcpy", "staged")


class HostStamps(Stamps):
    """Stamps of the host's clock in which the read-back, where it waits for the device, counts for nothing."""

    def parts_s(self, num_layers: int) -> dict[str, FloatArray]:
        """Return the host's seconds of each part, ``sync`` left at 0; `read_back_s` measures it alone."""
        parts = super().parts_s(num_layers)
        return parts | {"sync": np.zeros_like(parts["sync"])}


class DeviceStamps(Stamps):
    """Stamps of the device's clock: an event at every boundary, launched while the device still sleeps.

    In eager code the gap between two events is often the host's. After each read-back the device is put to sleep for
    longer than the host needs to launch what comes until the next one, so that the gaps are the device's own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._events: list[torch.cuda.Event] = []
        self._sleep_cycles = int(_QUEUE_S * cycles_per_s())

    def mark(self) -> None:
        """Pass a boundary."""
        super().mark()
        place = len(self._events) % self._per_step
        in_layer = (place - 1) % len(LAYER_PARTS)
        event = timed_event()
        if place == 0 or (0 < place < self._per_step - 2 and in_layer == LAYER_PARTS.index("choose")):
            torch.cuda._sleep(self._sleep_cycles)  # type: ignore[no-untyped-call]
        event.record()
        self._events.append(event)

    def expect(self, num_layers: int) -> None:
        """Say how many layers a step has, before its first boundary."""
        self._per_step = 3 + len(LAYER_PARTS) * num_layers

    def parts_s(self, num_layers: int) -> dict[str, FloatArray]:
        """Return the device's seconds of each part, ``sync`` left at 0: it holds the sleep."""
        torch.cuda.current_stream().synchronize()
        starts = self._events[:: self._per_step]
        edges_s = np.empty((len(starts), self._per_step))
        for step, first in enumerate(starts):
            events = self._events[step * self._per_step : (step + 1) * self._per_step]
            edges_s[step] = [first.elapsed_time(event) * 1e-3 for event in events]  # CUDA gives ms
        parts = parts_of(np.diff(edges_s, axis=1), num_layers)
        return parts | {"sync": np.zeros_like(parts["sync"])}


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaLinkSamples:
    """Transfers by events on their own streams, with the mechanism that proved faster."""

    mechanism: Mechanism
    to_device: list[Sample]
    to_host: list[Sample]
    both_ways_slowdown_frac: float


def cuda_link_samples(tokens: torch.Tensor, plan: Plan, slowed_bytes_per_s: float | None = None) -> CudaLinkSamples:
    """Return samples of transfers over pieces x bytes of a piece, from pinned memory; the link may be a slowed one.

    The mechanism with the smaller geometric mean over all sizes and counts is the one whose samples are returned.
    """
    samples: dict[Mechanism, list[Sample]] = defaultdict(list)
    back: list[Sample] = []
    slowdowns: list[float] = []
    for page_tokens in plan.page_tokens:
        for mechanism in _MECHANISMS:
            tested = _TestedLink(tokens, page_tokens, max(plan.pieces), mechanism, slowed_bytes_per_s)
            for pieces in plan.pieces:
                down_s = tested.times_s("demand", pieces, cap_s=plan.link_cap_s / 2)
                samples[mechanism] += [(pieces, tested.page_bytes, time_s) for time_s in down_s]
                if mechanism == "memcpy":
                    up_s = tested.times_s("write-back", pieces, cap_s=plan.link_cap_s / 2)
                    back += [(pieces, tested.page_bytes, time_s) for time_s in up_s]
            if mechanism == "memcpy":
                slowdowns.append(tested.both_ways_slowdown_frac(max(plan.pieces)))
    costs = {name: math.fsum(math.log(row[2]) for row in rows) / len(rows) for name, rows in samples.items()}
    best = min(_MECHANISMS, key=lambda name: costs[name])
    return CudaLinkSamples(
        mechanism=best,
        to_device=samples[best],
        to_host=back,
        both_ways_slowdown_frac=float(np.median(slowdowns)),
    )


class _TestedLink:
    """A CUDA link between a small host pool and device slots for all of it, one half for each direction."""

    def __init__(
        self,
        tokens: torch.Tensor,
        page_tokens: int,
        num_pages: int,
        mechanism: Mechanism,
        slowed_bytes_per_s: float | None,
    ) -> None:
        self._pool = filled_pool(tokens, page_tokens, 2 * num_pages, device="cuda")
        self._mechanism = mechanism
        self._slowed_bytes_per_s = slowed_bytes_per_s
        self.page_bytes = self._pool.page_bytes

    def times_s(self, kind: TransferKind, pieces: int, *, cap_s: float) -> list[float]:
        """Return the device's seconds of repeated single transfers."""
        link = self._link()

        def once() -> None:
            transfer = copy_of(self._pool, kind, pieces)
            link.submit(transfer)
            transfer.done.wait()

        repeat_s(once, cap_s=cap_s)
        return [transfer.end_s - transfer.start_s for transfer in link.drain()[2:]]  # the first two warm up

    def both_ways_slowdown_frac(self, pieces: int) -> float:
        """Return how much longer a transfer to the device takes while the other direction copies all the time."""
        alone_s: list[float] = []
        beside_s: list[float] = []
        for _ in range(12):
            for times_s, num_back in ((alone_s, 0), (beside_s, 4)):
                link = self._link()
                for _ in range(num_back):
                    link.submit(copy_of(self._pool, "write-back", pieces))
                timed = copy_of(self._pool, "demand", pieces)
                link.submit(timed)
                link.drain()
                times_s.append(timed.end_s - timed.start_s)
        return slowdown_frac(beside_s[2:], alone_s[2:])

    def _link(self) -> CudaLink:
        return CudaLink(
            self._pool, window_transfers=1, mechanism=self._mechanism, slowed_bytes_per_s=self._slowed_bytes_per_s
        )


def read_back_s(num_pages: int) -> float:
    """Return the host's seconds to wait for an idle device and read scores back: a synchronisation's own cost."""
    scores = torch.rand((1, num_pages), device="cuda").half()

    def once() -> None:
        scores.cpu().numpy()

    torch.cuda.current_stream().synchronize()
    return float(np.median(repeat_s(once, cap_s=0.5)))


def tail_s() -> float:
    """Return how long the device still works when a small kernel's launch has returned to the host."""
    small = torch.ones(1, device="cuda")
    tails_s = []
    for _ in range(50):
        torch.cuda.current_stream().synchronize()
        small.add_(1)
        launched_s = time.perf_counter()
        torch.cuda.current_stream().synchronize()
        tails_s.append(time.perf_counter() - launched_s)
    return float(np.median(tails_s))


def device_bench(bench: Bench) -> Bench:
    """Return `bench` with stamps on the device's clock."""

    def make_stamps() -> Stamps:
        stamps = DeviceStamps()
        stamps.expect(bench.num_layers)
        return stamps

    fields: dict[str, Any] = {name: getattr(bench, name) for name in bench.__slots__}
    return Bench(**fields | {"make_stamps": make_stamps})
