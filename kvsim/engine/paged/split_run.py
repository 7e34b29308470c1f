"""A decode run of a model whose layers lie on several devices: a run for each, with pages and a link of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kvsim.engine.links.base import Link, Transfer
from kvsim.engine.model.families import Rotary
from kvsim.engine.model.part import Part
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.engine.paged.fresh_run import MakeLink, fresh_run
from kvsim.engine.paged.paged_run import Observer, PagedRun
from kvsim.engine.paged.prefill import Snapshot
from kvsim.engine.paged.scoring import Seen
from kvsim.engine.paged.stamps import Stamps
from kvsim.engine.paged.tally import merged
from kvsim.engine.paged.visible import Visible
from kvsim.policies.devices import DeviceShare
from kvsim.types import BoolArray, IntArray, PageGrid, PageIds


def make_run(
    model: Any, run_input: DecodeInput, snapshot: Snapshot, make_link: MakeLink, stamps: Stamps | None = None
) -> PagedRun | SplitRun:
    """Return a run on pools and links of its own, split where `run_input` names several devices."""
    if run_input.devices:
        return SplitRun(model, run_input, snapshot, make_link, stamps)
    return fresh_run(model, run_input, snapshot, make_link, stamps)


class SplitRun:
    """What `PagedRun` is for one device: it hands each layer to the run of its device, and adds up what they count."""

    def __init__(
        self, model: Any, run_input: DecodeInput, snapshot: Snapshot, make_link: MakeLink, stamps: Stamps | None
    ) -> None:
        self.run_input = run_input
        self._observer: Observer | None = None
        self._heard: tuple[torch.Tensor, Rotary | None] | None = None
        self._devices: list[torch.device] = []
        self.runs: list[PagedRun] = []
        with ExitStack() as links:  # ended unless all runs are made
            for share in run_input.devices:
                part = Part(model, share.layers)
                run = fresh_run(part, run_input.of(share), _part_of(snapshot, share.layers), make_link, stamps)
                links.callback(run.link.close)
                self.runs.append(run)
                self._devices.append(run.pool.slots.device)
            links.pop_all()

    def copied(self, run_input: DecodeInput, make_link: MakeLink, memo: dict[int, Any]) -> SplitRun:
        """Return the same run on pools and links of its own, between two steps."""
        copied = SplitRun.__new__(SplitRun)
        copied.run_input, copied._heard, copied._devices = run_input, None, self._devices
        pairs = zip(self.runs, run_input.devices, strict=True)
        copied.runs = [run.copied(run_input.of(share), make_link, memo) for run, share in pairs]
        copied.observer = None if self.observer is None else memo[id(self.observer)]
        return copied

    @property
    def link(self) -> Links:
        """The links of all devices."""
        return Links([run.link for run in self.runs])

    @property
    def context_tokens(self) -> int:
        """Tokens each sequence holds, those of the pass under way not counted."""
        return self.runs[0].context_tokens

    @property
    def sequence_tokens(self) -> IntArray:
        """Tokens of each sequence, likewise, ``[num_sequences]``."""
        return self.runs[0].sequence_tokens

    @property
    def observer(self) -> Observer | None:
        """Whoever looks on; it sees the layers and pages of the whole model."""
        return self._observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._observer = observer
        whole = self.run_input.setting.grid
        for run, share in zip(self.runs, self.run_input.devices, strict=True):
            run.observer = None if observer is None else _OfWhole(observer, share, whole)

    @property
    def host_tokens(self) -> torch.Tensor:
        """A copy of keys and values in host memory, ``[num_sequences, num_layers, tokens, 2, kv heads, head_dim]``."""
        parts = [run.host_tokens for run in self.runs]
        num_layers = self.run_input.setting.grid.num_layers
        shape = (len(parts[0]), num_layers, *parts[0].shape[2:])
        whole = torch.empty(shape, dtype=parts[0].dtype, pin_memory=parts[0].is_pinned())
        return torch.cat(parts, dim=1, out=whole)

    def flush(self) -> None:
        """Bring to host memory what only the devices hold; no transfer may be under way."""
        for run in self.runs:
            run.flush()

    def show(self, visible: Visible | None) -> None:
        """Let attention read what is `visible` in the step under way; everything where it is None."""
        for run in self.runs:
            run.show(visible)

    def end_sequences(self, ended: BoolArray) -> None:
        """Let sequences take and read no more pages from the next step on, ``[num_sequences]``."""
        for run in self.runs:
            run.end_sequences(ended)

    @property
    def speculation(self) -> SplitRun | None:
        """What wants to hear the layers, if anything does."""
        return self if any(run.speculation is not None for run in self.runs) else None

    def hear(self, hidden: torch.Tensor, rotary: Rotary | None) -> None:
        """Keep what enters a layer until that layer attends: only then is it known whose it is."""
        self._heard = hidden, rotary

    @property
    def num_unread(self) -> tuple[int, ...]:
        """Slots of each device whose page was prefetched and not read yet."""
        return tuple(run.tally.num_unread for run in self.runs)

    def counts(self, num_steps: int, num_unread: tuple[int, ...]) -> dict[str, NDArray[np.int64]]:
        """Return the finished counts of the first `num_steps` steps of all devices; see `PagedRun.counts`."""
        own = zip(self.runs, num_unread, strict=True)
        return merged([run.counts(num_steps, (unread,)) for run, unread in own])

    def begin(self, step: int) -> None:
        """Start a step."""
        for run in self.runs:
            run.begin(step)

    def end(self) -> None:
        """End a step: every sequence is one token longer."""
        for run in self.runs:
            run.end()
        if self._observer is not None:
            self._observer.end_step(self.sequence_tokens)

    def update(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new token of each sequence into its open page and hand just that to attention."""
        number, own = self._place(layer)
        return self.runs[number].update(own, key, value)

    def attend(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        """Select, decide, move, wait and attend on the layer's device."""
        number, own = self._place(layer)
        run, device = self.runs[number], self._devices[number]
        if self._heard is not None and run.speculation is not None:
            hidden, rotary = self._heard  # where it comes from another device, its way there is still ahead
            run.speculation.hear(hidden.to(device), rotary and (rotary[0].to(device), rotary[1].to(device)))
        self._heard = None
        return run.attend(own, query)

    def _place(self, layer: int) -> tuple[int, int]:
        """Return the device of a layer and the layer's place there."""
        shares = self.run_input.devices
        number = next(number for number, share in enumerate(shares) if layer in share.layers)
        return number, layer - shares[number].layers.start


class Links:
    """Several links as one, for whoever waits for all or ends them."""

    def __init__(self, links: Sequence[Link]) -> None:
        self.links = links

    def drain(self) -> list[Transfer]:
        """Wait until all is done and return the transfers, device by device; their pages have ids of their device."""
        return [transfer for link in self.links for transfer in link.drain()]

    def close(self) -> None:
        """End all links."""
        for link in self.links:
            link.close()


class _OfWhole:
    """An observer of one device that shows what it sees to one of the whole model."""

    def __init__(self, observer: Observer, share: DeviceShare, whole: PageGrid) -> None:
        self._observer = observer
        self._share = share
        self._whole = whole

    def layer(
        self, layer: int, seen: Seen, selected: PageIds, query: torch.Tensor, slots: IntArray, unfilled_tokens: IntArray
    ) -> None:
        """Pass on what attention is about to read."""
        pages = self._share.in_whole(selected, self._whole)
        self._observer.layer(self._share.layers[layer], seen, pages, query, slots, unfilled_tokens)

    def end_step(self, sequence_tokens: IntArray) -> None:
        """Nothing to do: a step ends when it has ended on all devices."""


def _part_of(snapshot: Snapshot, layers: range) -> Snapshot:
    """Return the snapshot of some layers, on host memory of its own where theirs is not in one piece."""
    tokens = snapshot.tokens[:, layers.start : layers.stop]
    if not tokens.is_contiguous():
        own = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=snapshot.tokens.is_pinned())
        tokens = own.copy_(tokens)
    return dataclasses.replace(snapshot, tokens=tokens)
