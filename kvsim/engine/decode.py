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

from kvsim.engine.attention import attached
from kvsim.engine.cache import PagedCache
from kvsim.engine.link import EmulatedLink, Link, Transfer
from kvsim.engine.page_pool import PagePool
from kvsim.engine.paged_run import DecodeInput, Observer, PagedRun
from kvsim.engine.prefill import Snapshot
from kvsim.engine.stamps import Stamps, stamped
from kvsim.errors import CapacityError


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeResult:
    """What one run gave."""

    step_s: NDArray[np.float64]
    """Wall time of each step, ``[num_steps]``."""
    counts: dict[str, NDArray[np.int64]]
    """`kvsim.engine.tally` columns by name, ``[num_steps]`` each."""
    parts_s: dict[str, NDArray[np.float64]] | None
    """Where the time went, if the run was stamped; see `kvsim.engine.stamps.Stamps.parts_s`."""
    tokens: torch.Tensor
    """Greedy choice after each step, ``[num_sequences, num_steps]``."""
    logits: torch.Tensor | None
    """``[num_sequences, num_steps, vocabulary]`` in float32, if they were kept."""
    transfers: list[Transfer]


def decode(
    model: Any,
    snapshot: Snapshot,
    given: DecodeInput,
    *,
    bandwidth_bytes_per_s: float,
    forced_tokens: torch.Tensor | None = None,
    is_stamped: bool = False,
    keeps_logits: bool = False,
    observer: Callable[[PagePool], Observer] | None = None,
    make_link: Callable[[PagePool, float], Link] = EmulatedLink,
    progress: Callable[[int], None] | None = None,
) -> DecodeResult:
    """Decode `given.num_steps` tokens of every sequence.

    Parameters
    ----------
    forced_tokens
        Token to feed at each step, ``[num_sequences, num_steps]``; greedy decoding where absent.
    is_stamped
        Stamp the parts of every layer. It costs time: take `step_s` from a run without.
    observer
        Makes an onlooker of every layer, as a recorder of traces is; it costs time too.
    progress
        Called with 1 after each step.

    Raises
    ------
    CapacityError
        If the snapshot has no room for the steps.
    """
    setting = given.setting
    room_pages = snapshot.tokens.shape[2] // given.page_tokens
    if setting.grid.pages_per_layer > room_pages:
        raise CapacityError(
            f"the snapshot has room for {room_pages} pages, the run wants {setting.grid.pages_per_layer}"
        )
    pool = PagePool(
        setting.grid,
        snapshot.tokens,
        page_tokens=given.page_tokens,
        num_slots=setting.capacity_pages + setting.grid.num_sequences,
        device=model.device.type,
    )
    stamps = Stamps() if is_stamped else None
    link = make_link(pool, bandwidth_bytes_per_s)
    try:
        run = PagedRun(given, snapshot, pool, link, stamps)
        if observer is not None:
            run.observer = observer(pool)
        with attached(model, run), stamped(model, stamps), _undisturbed():
            loop = _Loop(model, run, snapshot, forced_tokens, keeps_logits=keeps_logits)
            step_s = [loop.step(step, stamps, progress) for step in range(given.num_steps)]
        transfers = link.drain()
        run.tally.finish(transfers)
    finally:
        link.close()
    return DecodeResult(
        step_s=np.array(step_s),
        counts=run.tally.columns,
        parts_s=None if stamps is None else stamps.parts_s(setting.grid.num_layers),
        tokens=torch.cat(loop.tokens, dim=1),
        logits=torch.stack(loop.logits, dim=1) if keeps_logits else None,
        transfers=transfers,
    )


class _Loop:
    """Feeds tokens to the model, one step at a time."""

    def __init__(
        self, model: Any, run: PagedRun, snapshot: Snapshot, forced: torch.Tensor | None, *, keeps_logits: bool
    ) -> None:
        self._model = model
        self._run = run
        self._cache = PagedCache(run, snapshot.num_layers)
        self._forced = forced
        self._next = snapshot.next_token.to(model.device)
        self._keeps_logits = keeps_logits
        self.tokens: list[torch.Tensor] = []
        self.logits: list[torch.Tensor] = []

    def step(self, step: int, stamps: Stamps | None, progress: Callable[[int], None] | None) -> float:
        """Run one step and return its wall time in seconds."""
        fed = self._next if self._forced is None else self._forced[:, step : step + 1].to(self._model.device)
        self._run.begin(step)
        started_s = time.perf_counter()
        if stamps is not None:
            stamps.mark()
        with torch.inference_mode():
            logits = self._model(fed, past_key_values=self._cache, use_cache=True).logits[:, -1]
            self._next = logits.argmax(dim=-1, keepdim=True)
            chosen = self._next.cpu()
        if stamps is not None:
            stamps.mark()
        step_s = time.perf_counter() - started_s
        self._run.end()
        self.tokens.append(chosen)
        if self._keeps_logits:
            self.logits.append(logits.float().cpu())
        if progress is not None:
            progress(1)
        return step_s


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep Python's garbage collection out of the steps."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
