"""kvsim's own decode loop: a run from a snapshot, teacher-forced or greedy, timed whole or stamped part by part."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import Cache

from kvsim.engine.links.base import EmulatedLink, Link, Transfer
from kvsim.engine.links.cuda import CudaLink, Mechanism
from kvsim.engine.links.page_pool import PagePool
from kvsim.engine.model.forward import logits_of
from kvsim.engine.model.layers import window_layers
from kvsim.engine.model.sdpa import cudnn_left_out
from kvsim.engine.paged.attention import attached
from kvsim.engine.paged.cuda_stamps import EventStamps
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.engine.paged.paged_run import Observer, PagedRun
from kvsim.engine.paged.prefill import Snapshot
from kvsim.engine.paged.split_run import SplitRun, make_run
from kvsim.engine.paged.stamps import Stamps, stamped
from kvsim.engine.paged.unpaged import cache_layers
from kvsim.engine.paged.visible import Visible


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeResult:
    """What one run gave."""

    step_s: NDArray[np.float64]
    """Wall time of each step, ``[num_steps]``."""
    counts: dict[str, NDArray[np.int64]]
    """`kvsim.engine.paged.tally` columns by name, ``[num_steps]`` each."""
    parts_s: dict[str, NDArray[np.float64]] | None
    """Where the time went, if the run was stamped; see `kvsim.engine.paged.stamps.Stamps.parts_s`."""
    tokens: torch.Tensor
    """Greedy choice after each step, ``[num_sequences, num_steps]``."""
    logits: torch.Tensor | None
    """``[num_sequences, num_steps, vocabulary]`` in float32, if they were kept."""
    transfers: list[Transfer]
    stamps: Stamps | None
    """The boundaries behind `parts_s`."""


@torch.inference_mode()
def decode(
    model: Any,
    snapshot: Snapshot,
    run_input: DecodeInput,
    *,
    bandwidth_bytes_per_s: float | None,
    forced_tokens: torch.Tensor | None = None,
    is_stamped: bool = False,
    keeps_logits: bool = False,
    observer: Callable[[PagePool], Observer] | None = None,
    make_link: Callable[[PagePool, float | None], Link] | None = None,
    mechanism: Mechanism = "memcpy",
    progress: Callable[[int], None] | None = None,
) -> DecodeResult:
    """Decode `run_input.num_steps` tokens of every sequence.

    Parameters
    ----------
    forced_tokens
        Token to feed at each step, ``[num_sequences, num_steps]``; greedy decoding where absent.
    is_stamped
        Stamp the parts of every layer. It costs time: take `step_s` from a run without.
    bandwidth_bytes_per_s
        Stated bandwidth of the emulated link; what a GPU's link is slowed to, None: it is not.
    mechanism
        How a GPU's link copies.
    observer
        Makes an onlooker of every layer, as a recorder of traces is; it costs time too.
    progress
        Called with 1 after each step.

    Raises
    ------
    CapacityError
        If the snapshot has no room for the steps.
    """
    step_s: list[float] = []
    tokens: list[torch.Tensor] = []
    logits: list[torch.Tensor] = []
    fed = snapshot.next_token
    stamps: Stamps | None = None
    if is_stamped:
        stamps = EventStamps() if model.device.type == "cuda" else Stamps()
    link_of = make_link or _link_maker(run_input, mechanism)
    run = make_run(model, run_input, snapshot, lambda pool: link_of(pool, bandwidth_bytes_per_s), stamps)
    with running(model, run, snapshot, stamps) as decoder:
        if observer is not None:
            assert isinstance(run, PagedRun)  # what runs attend to is recorded on one device
            run.observer = observer(run.pool)
        for step in range(run_input.num_steps):
            decoder.run.show(visible_at(step, run_input, snapshot))
            outcome = decoder.step(fed if forced_tokens is None else forced_tokens[:, step : step + 1])
            decoder.run.end()
            fed = outcome.chosen
            step_s.append(outcome.step_s)
            tokens.append(outcome.chosen)
            if keeps_logits:
                logits.append(outcome.logits.float().cpu())
            if progress is not None:
                progress(1)
        transfers = run.link.drain()
        counts = run.counts(run_input.num_steps, run.num_unread)
    return DecodeResult(
        step_s=np.array(step_s),
        counts=counts,
        parts_s=None if stamps is None else stamps.parts_s(run_input.setting.grid.num_layers),
        tokens=torch.cat(tokens, dim=1),
        logits=torch.stack(logits, dim=1) if keeps_logits else None,
        transfers=transfers,
        stamps=stamps,
    )


def visible_at(step: int, run_input: DecodeInput, snapshot: Snapshot) -> Visible | None:
    """Return what attention may read at `step`: nothing of the sequences that have ended; None where none has."""
    if step < min(run_input.steps):
        return None
    steps = np.array(run_input.steps)
    longest = int((snapshot.sequence_tokens + np.minimum(step + 1, steps)).max())
    tokens = np.broadcast_to(step < steps[:, None], (steps.size, longest))
    return Visible(tokens, run_input.page_tokens)


def _link_maker(run_input: DecodeInput, mechanism: Mechanism) -> Callable[[PagePool, float | None], Link]:
    """Return what makes the link of a pool: real copies to a GPU, or the emulated link at the stated bandwidth."""

    def make(pool: PagePool, bandwidth_bytes_per_s: float | None) -> Link:
        if pool.slots.is_cuda:
            return CudaLink(
                pool,
                window_transfers=run_input.window_transfers,
                mechanism=mechanism,
                slowed_bytes_per_s=bandwidth_bytes_per_s,
            )
        assert bandwidth_bytes_per_s is not None  # a link without a GPU is emulated
        return EmulatedLink(pool, bandwidth_bytes_per_s)

    return make


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What one step gave."""

    step_s: float
    cpu_s: float
    """Processor time of the computing thread: what `step_s` has beyond it was spent waiting, or another program ran."""
    logits: torch.Tensor
    """``[num_sequences, vocabulary]`` on the model's device."""
    chosen: torch.Tensor
    """The greedy next token on the host, ``[num_sequences, 1]``."""


class Decoder:
    """Feeds one token a sequence and step to a model whose cache is a paged run."""

    def __init__(self, model: Any, run: PagedRun | SplitRun, snapshot: Snapshot, stamps: Stamps | None) -> None:
        self.run = run
        self.link = run.link
        self._model = model
        self._stamps = stamps
        self._is_even = snapshot.unequal_tokens is None
        self._window = max(window_layers(model.config).values(), default=None)
        self._cache = Cache(layers=cache_layers(model, run, snapshot))
        self._num_steps = 0

    def step(self, fed: torch.Tensor) -> StepOutcome:
        """Run one step on `fed`, ``[num_sequences, 1]``; its tokens count once the caller ends it (`PagedRun.end`)."""
        self.run.begin(self._num_steps)
        self._num_steps += 1
        return timed_step(self._model, self._cache, fed, self._stamps, **self._places())

    def _places(self) -> dict[str, torch.Tensor]:
        """Return where the tokens of a batch of unequal length stand, and what windows, padded on the left, show."""
        if self._is_even:
            return {}
        positions = torch.from_numpy(self.run.sequence_tokens.copy()).to(self._model.device)[:, None]
        if self._window is None:
            return {"position_ids": positions}
        width = min(self._window, self.run.context_tokens + 1)
        shown = torch.arange(width, device=positions.device) >= width - 1 - positions
        return {"position_ids": positions, "attention_mask": shown[:, None, None]}


def timed_step(model: Any, cache: Any, fed: torch.Tensor, stamps: Stamps | None, **options: Any) -> StepOutcome:
    """Run `model` on the tokens `fed`, ``[num_sequences, 1]``, over any cache, from the token to the next one's id.

    `options` go to the model.
    """
    started_cpu_s, started_s = time.thread_time(), time.perf_counter()
    if stamps is not None:
        stamps.mark()
    on_device = fed.to(model.device)
    logits = logits_of(model, on_device, cache, **options)[:, -1]
    likeliest = logits.argmax(dim=-1, keepdim=True)
    if stamps is not None:
        stamps.mark()
    chosen = likeliest.cpu()
    step_s, cpu_s = time.perf_counter() - started_s, time.thread_time() - started_cpu_s
    return StepOutcome(step_s=step_s, cpu_s=cpu_s, logits=logits, chosen=chosen)


@contextmanager
def running(model: Any, run: PagedRun | SplitRun, snapshot: Snapshot, stamps: Stamps | None) -> Iterator[Decoder]:
    """Put a run under `model` while the block lasts, and close its link at the end.

    Call it in inference mode, the run made there too: views of ordinary tensors cost a tenth more to work with. On
    the CPU torch computes on one thread, whatever the policy: the others are the emulated link's. One model runs so in
    one thread at a time.
    """
    try:
        with undisturbed(), attached(model, run), stamped(model, stamps):
            yield Decoder(model, run, snapshot, stamps)
    finally:
        run.link.close()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Compute on one thread, without cuDNN's attention, and collect no garbage while the block lasts.

    Pauses would hit whatever step they may.
    """
    was_collecting, num_threads = gc.isenabled(), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        gc.disable()
        with cudnn_left_out():
            yield
    finally:
        torch.set_num_threads(num_threads)
        if was_collecting:
            gc.enable()
