"""Keys and values of a run of tokens, kept on a tier and put back into a transformers cache in one transfer."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from kvsim.engine.links.base import EmulatedLink, Transfer, TransferKind
from kvsim.types import IntArray, PageIds
from kvsim.types import Tier as Tier

_TOKEN_AXIS = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KVStates:
    """Keys and values of consecutive tokens of one sequence, in every layer; never written to once they are made."""

    tensor: torch.Tensor
    """``[num_layers, 2, num_kv_heads, tokens, head_dim]``, keys before values."""
    tier: Tier

    @property
    def num_tokens(self) -> int:
        """Tokens of the run."""
        return int(self.tensor.shape[_TOKEN_AXIS])

    @property
    def nbytes(self) -> int:
        """Bytes of these tokens; a slice of a longer run keeps all of it in memory."""
        return int(self.tensor.numel() * self.tensor.element_size())

    def tokens(self, start: int, stop: int) -> KVStates:
        """Return the states of tokens `start` to `stop`, without copying them."""
        if not 0 <= start <= stop <= self.num_tokens:
            raise ValueError(f"tokens {start} to {stop} of {self.num_tokens}")
        return KVStates(tensor=self.tensor[:, :, :, start:stop], tier=self.tier)


class StateLink(Protocol):
    """Carries a contiguous tensor between host and device as one transfer."""

    @property
    def num_transfers(self) -> int:
        """Transfers so far, both directions."""

    def to_device(self, states: torch.Tensor) -> torch.Tensor:
        """Return `states` on the device; what computes next may use it."""

    def to_host(self, states: torch.Tensor) -> torch.Tensor:
        """Return `states` in host memory, arrived."""

    def close(self) -> None:
        """End what the link keeps running."""


def make_link(device: torch.device | str, bandwidth_bytes_per_s: float) -> StateLink:
    """Return the link of a device: that of the GPU, or an emulated one of the stated bandwidth."""
    torch_device = torch.device(device)
    return GpuStateLink(torch_device) if torch_device.type == "cuda" else EmulatedStateLink(bandwidth_bytes_per_s)


class EmulatedStateLink:
    """The emulated link of `base` for whole tensors: really copied, and held to the stated bandwidth."""

    def __init__(self, bandwidth_bytes_per_s: float) -> None:
        self._copies = _Copies()
        self._bandwidth_bytes_per_s = bandwidth_bytes_per_s
        self._link: EmulatedLink | None = None  # its threads begin with the first transfer
        self.num_transfers = 0

    def to_device(self, states: torch.Tensor) -> torch.Tensor:
        """Return a copy, once it has arrived."""
        return self._carry(states, "demand")

    def to_host(self, states: torch.Tensor) -> torch.Tensor:
        """Return a copy, once it has arrived."""
        return self._carry(states, "write-back")

    def close(self) -> None:
        """End the threads."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _carry(self, source: torch.Tensor, kind: TransferKind) -> torch.Tensor:
        if self._link is None:
            self._link = EmulatedLink(self._copies, self._bandwidth_bytes_per_s)
        target = torch.empty(source.shape, dtype=source.dtype)
        size_bytes = source.numel() * source.element_size()
        self._copies.waiting(kind).append((target, source))
        bytes_ = np.broadcast_to(np.int64(0), (size_bytes,))  # a page of the link is a byte here: its pace counts them
        self._link.submit(Transfer(kind=kind, pages=bytes_, slots=bytes_, step=0))
        self._link.drain().clear()  # the link's own list, which would grow with every transfer
        self.num_transfers += 1
        return target


class _Copies:
    """What the emulated link takes for a pool of pages of one byte: the copies that were submitted, in order."""

    page_bytes = 1

    def __init__(self) -> None:
        self._to_device: deque[tuple[torch.Tensor, torch.Tensor]] = deque()
        self._to_host: deque[tuple[torch.Tensor, torch.Tensor]] = deque()

    def waiting(self, kind: TransferKind) -> deque[tuple[torch.Tensor, torch.Tensor]]:
        return self._to_host if kind == "write-back" else self._to_device

    def load(self, pages: PageIds, slots: IntArray) -> int:
        return self._copy(self._to_device, pages, slots)

    def store(self, pages: PageIds, slots: IntArray) -> int:
        return self._copy(self._to_host, pages, slots)

    def _copy(self, waiting: deque[tuple[torch.Tensor, torch.Tensor]], pages: PageIds, slots: IntArray) -> int:
        del slots
        target, source = waiting.popleft()
        with torch.inference_mode():  # a mode of the thread: this is the link's
            target.copy_(source)
        return int(pages.size)


class GpuStateLink:
    """One asynchronous copy a transfer, on the stream that computes: what is launched next finds the bytes there.

    Written where no GPU was available: its logic has not run yet.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.num_transfers = 0

    def to_device(self, states: torch.Tensor) -> torch.Tensor:
        """Return the copy that was launched; the host does not wait."""
        self.num_transfers += 1
        return states.to(self._device, non_blocking=True)

    def to_host(self, states: torch.Tensor) -> torch.Tensor:
        """Return a pinned copy, once it has arrived."""
        self.num_transfers += 1
        target = torch.empty(states.shape, dtype=states.dtype, pin_memory=True)
        target.copy_(states, non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()
        return target

    def close(self) -> None:
        """Nothing runs on its own."""


def keep(
    cache: DynamicCache, start: int = 0, stop: int | None = None, *, tier: Tier = "device", link: StateLink
) -> KVStates:
    """Return a copy of the states of tokens `start` to `stop` of a cache's first sequence, in one transfer.

    Parameters
    ----------
    stop
        The end of the cache where absent.
    """
    layers: list[Any] = cache.layers
    first: torch.Tensor = layers[0].keys  # [batch, kv head, token, head_dim]
    stop = first.shape[2] if stop is None else stop
    shape = (len(layers), 2, first.shape[1], stop - start, first.shape[3])
    tensor = torch.empty(shape, dtype=first.dtype, device=first.device)
    for place, layer in enumerate(layers):
        tensor[place, 0], tensor[place, 1] = layer.keys[0, :, start:stop], layer.values[0, :, start:stop]
    return move(KVStates(tensor=tensor, tier="device"), tier, link)


def move(states: KVStates, tier: Tier, link: StateLink) -> KVStates:
    """Return the states on a tier: the same object where they are there already, else a copy in one transfer."""
    if states.tier == tier:
        return states
    source = states.tensor.contiguous()
    return KVStates(tensor=link.to_host(source) if tier == "host" else link.to_device(source), tier=tier)


def restore(states: Sequence[KVStates], link: StateLink) -> DynamicCache:
    """Return a cache that holds `states` one after another, from position 0 on.

    What is on the host crosses the link in one transfer, however many parts it has. What is on the device does not
    move, and a single part of it is not even copied: a cache that grows makes tensors of its own and writes into none.
    """
    parts = [part for part in states if part.num_tokens]
    cache = DynamicCache()
    if not parts:
        return cache
    tensors = _on_device(parts, link)
    whole = tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=_TOKEN_AXIS)
    for keys, values in whole.unbind(0):
        layer: Any = DynamicLayer()  # type: ignore[no-untyped-call]
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys.unsqueeze(0), values.unsqueeze(0)
        cache.layers.append(layer)
    return cache


def _on_device(parts: Sequence[KVStates], link: StateLink) -> list[torch.Tensor]:
    """Return the tensors of `parts` on the device, those of the host brought there as one."""
    on_host = [part.tensor for part in parts if part.tier == "host"]
    if not on_host:
        return [part.tensor for part in parts]
    arrived = link.to_device(_gathered(on_host))
    if len(on_host) == len(parts):
        return [arrived]
    sizes = [tensor.shape[_TOKEN_AXIS] for tensor in on_host]
    brought = iter(torch.split(arrived, sizes, dim=_TOKEN_AXIS))
    return [next(brought) if part.tier == "host" else part.tensor for part in parts]


def _gathered(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return host tensors as one contiguous one, pinned where they are; a single contiguous one as it is."""
    if len(tensors) == 1 and tensors[0].is_contiguous():
        return tensors[0]
    shape = list(tensors[0].shape)
    shape[_TOKEN_AXIS] = sum(tensor.shape[_TOKEN_AXIS] for tensor in tensors)
    pins = torch.cuda.is_available() and tensors[0].is_pinned()
    whole = torch.empty(shape, dtype=tensors[0].dtype, pin_memory=pins)
    return torch.cat(list(tensors), dim=_TOKEN_AXIS, out=whole)
