"""Where pages are: device slots, host pages, the page table between them, and a tag on every slot; no policy in it."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kvsim.types import BoolArray, IntArray, PageGrid, PageIds

NOWHERE = -1
"""In the page table: the page owns no slot. In a tag: the slot holds no page."""

_NAN_BYTE = 0xFF  # 0xFFFF and 0xFFFFFFFF are NaN in fp16, bf16 and fp32


class EngineError(RuntimeError):
    """The engine broke its own page table: a bug of ours, never an error of the user."""


class PagePool:
    """Device slots and host pages of one batch.

    A slot's tag names the page whose bytes it holds. `load` sets it once the bytes are there; `release` takes it off
    and, on the CPU, writes NaN over the slot's first and last token, so that whoever reads a freed slot, or one that
    was never filled, gets NaN.

    Parameters
    ----------
    host_tokens
        Keys and values in host memory, ``[num_sequences, num_layers, tokens, 2, num_kv_heads, head_dim]``; its first
        ``grid.pages_per_layer * page_tokens`` tokens are the host pages.
    num_slots
        Device slots. The caller asks for the budget and one more a sequence, because a page that opens takes its slot
        just before the decision that makes room.
    """

    def __init__(
        self, grid: PageGrid, host_tokens: torch.Tensor, *, page_tokens: int, num_slots: int, device: str
    ) -> None:
        token_shape = host_tokens.shape[3:]
        shape = (grid.num_sequences * grid.num_layers, grid.pages_per_layer, page_tokens, *token_shape)
        self.grid = grid
        self.page_tokens = page_tokens
        self.host_tokens = host_tokens
        rows = host_tokens.flatten(0, 1)
        self.host_pages = rows[:, : grid.pages_per_layer * page_tokens].view(shape)
        # [sequence x layer, page, token, 2, kv head, head_dim]
        self._room_pages, rest = divmod(rows.shape[1], page_tokens)
        self._all_pages = rows.view(-1, *shape[2:]) if rest == 0 and rows.is_contiguous() else None
        self.slots = torch.empty((num_slots, *shape[2:]), dtype=host_tokens.dtype, device=device)
        # [num_slots, page_tokens, 2, num_kv_heads, head_dim]
        self.page_bytes = self.slots[0].numel() * self.slots.element_size()
        self.slot_of: IntArray = np.full(grid.num_pages, NOWHERE, dtype=np.int64)
        self.tag_of: IntArray = np.full(num_slots, NOWHERE, dtype=np.int64)
        self.is_on_host: BoolArray = np.zeros(grid.num_pages, dtype=np.bool_)
        self._free: deque[int] = deque(range(num_slots))
        self._slot_bytes = _bytes_of(self.slots) if device == "cpu" else None
        self._host_bytes = _bytes_of(self.host_pages) if device == "cpu" else None
        if self._slot_bytes is not None:
            self._slot_bytes[:] = _NAN_BYTE

    @property
    def num_free(self) -> int:
        """Slots that no page owns."""
        return len(self._free)

    def copied(self) -> PagePool:
        """Return a pool of its own memory that holds the same pages in the same places; no copy may be under way."""
        host_tokens = torch.empty_like(self.host_tokens, pin_memory=self.host_tokens.is_pinned())
        host_tokens.copy_(self.host_tokens)
        num_slots, device = len(self.tag_of), self.slots.device.type
        pool = PagePool(self.grid, host_tokens, page_tokens=self.page_tokens, num_slots=num_slots, device=device)
        pool.slots.copy_(self.slots)
        pool.slot_of[:], pool.tag_of[:], pool.is_on_host[:] = self.slot_of, self.tag_of, self.is_on_host
        pool._free = self._free.copy()
        return pool

    def take(self, pages: PageIds) -> IntArray:
        """Give each page the slot that has been free longest, and return the slots; the bytes come later."""
        if pages.size > len(self._free):
            raise EngineError(f"{pages.size} pages want slots, {len(self._free)} are free")
        if (self.slot_of[pages] != NOWHERE).any():
            raise EngineError("a page that owns a slot was given another")
        slots = np.array([self._free.popleft() for _ in range(pages.size)], dtype=np.int64)
        self.slot_of[pages] = slots
        return slots

    def release(self, pages: PageIds, is_leaving: BoolArray) -> IntArray:
        """Take their slots from `pages`, tags off and NaN in, and return the slots.

        Where a page `is_leaving`, its bytes are still being copied to the host: its slot stays as it is until the next
        page comes into it, which waits for that copy.
        """
        slots = self.slot_of[pages]
        if (slots == NOWHERE).any():
            raise EngineError(f"page {int(pages[slots == NOWHERE][0])} was released and owns no slot")
        self.slot_of[pages] = NOWHERE
        self._free.extend(slots.tolist())
        wiped = slots[~is_leaving]
        self.tag_of[wiped] = NOWHERE
        if self._slot_bytes is not None:
            self._slot_bytes[wiped, 0] = _NAN_BYTE
            self._slot_bytes[wiped, -1] = _NAN_BYTE
        return slots

    def load(self, pages: PageIds, slots: IntArray) -> int:
        """Copy host pages into `slots` and tag these; return how many were copied. On the CPU."""
        assert self._slot_bytes is not None and self._host_bytes is not None
        for page, slot in zip(pages.tolist(), slots.tolist(), strict=True):
            if not self.is_on_host[page]:
                raise EngineError(f"page {page} was asked of the host, which does not hold it")
            np.copyto(self._slot_bytes[slot], self._host_bytes[divmod(page, self.grid.pages_per_layer)])
            self.tag_of[slot] = page
        return int(pages.size)

    def store(self, pages: PageIds, slots: IntArray) -> int:
        """Copy `slots` to the host as `pages`; return how many were copied. On the CPU."""
        assert self._slot_bytes is not None and self._host_bytes is not None
        for page, slot in zip(pages.tolist(), slots.tolist(), strict=True):
            if self.tag_of[slot] != page:
                raise EngineError(f"slot {slot} holds page {self.tag_of[slot]}, not page {page} to be written back")
            np.copyto(self._host_bytes[divmod(page, self.grid.pages_per_layer)], self._slot_bytes[slot])
            self.is_on_host[page] = True
        return int(pages.size)

    def gather(self, pages: PageIds, into: torch.Tensor) -> None:
        """Copy host pages one behind the other to host memory, ``[pages, page_tokens, 2, num_kv_heads, head_dim]``."""
        rows, columns = np.divmod(pages, self.grid.pages_per_layer)
        if pages.size and (rows == rows[0]).all():  # a layer of one sequence, as most transfers are
            torch.index_select(self.host_pages[int(rows[0])], 0, torch.from_numpy(columns), out=into)
        elif self._all_pages is not None:
            places = torch.from_numpy(rows * self._room_pages + columns)
            torch.index_select(self._all_pages, 0, places, out=into)
        else:
            into.copy_(self.host_pages[torch.from_numpy(rows), torch.from_numpy(columns)])

    def place(self, pages: PageIds) -> None:
        """Put `pages` into slots at once, without the link: what prefill leaves on the device.

        Pages that follow one another go in one copy, in the order of the compute stream.
        """
        slots = self.take(pages)
        row_of = pages // self.grid.pages_per_layer
        ends = np.flatnonzero((np.diff(pages) != 1) | (np.diff(slots) != 1) | (np.diff(row_of) != 0)) + 1
        for start, end in pairwise([0, *ends.tolist(), pages.size]):
            if start < end:
                row, column = divmod(int(pages[start]), self.grid.pages_per_layer)
                run = self.host_pages[row, column : column + end - start]
                self.slots[int(slots[start]) : int(slots[end - 1]) + 1].copy_(run, non_blocking=True)
        self.tag_of[slots] = pages

    def flush(self) -> None:
        """Copy to the host what only slots hold, without the link; no transfer may be under way."""
        pages = np.flatnonzero((self.slot_of != NOWHERE) & ~self.is_on_host)
        rows, columns = np.divmod(pages, self.grid.pages_per_layer)
        slots = torch.from_numpy(self.slot_of[pages]).to(self.slots.device)
        self.host_pages[torch.from_numpy(rows), torch.from_numpy(columns)] = self.slots[slots].cpu()

    def check(self, pages: PageIds, slots: IntArray) -> None:
        """Raise an `EngineError` unless every slot about to be read holds the page that is meant."""
        tags = self.tag_of[slots]
        if not np.array_equal(tags, pages):
            place = int(np.flatnonzero(tags != pages)[0])
            raise EngineError(
                f"attention wants page {int(pages[place])}, slot {int(slots[place])} holds page {int(tags[place])}"
            )


def _bytes_of(tensor: torch.Tensor) -> NDArray[Any]:
    """Return the bytes of pages as an array ``[..., page_tokens, bytes of a token]`` on the same memory."""
    tokens = tensor.flatten(-3)
    array: NDArray[Any] = tokens.view(torch.uint8).numpy()
    return array
