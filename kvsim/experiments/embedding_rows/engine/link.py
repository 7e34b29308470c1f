"""How rows of the embedding table travel to the device: gathered on the host, then one copy, of either kind of link."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kvsim.engine.links.base import EmulatedLink, Transfer, TransferKind
from kvsim.errors import KvsimError


class RowFlight(Protocol):
    """Rows on their way."""

    rows: torch.Tensor
    """``[n, hidden_size]`` on the device; not to be read before `wait`."""

    @property
    def is_done(self) -> bool:
        """Whether they have arrived."""

    def wait(self) -> int:
        """Have what is computed next wait for the rows, and return how many were copied."""


class RowLink(Protocol):
    """Copies rows to the device, misses before what is fetched ahead."""

    def send(self, staged: torch.Tensor, kind: TransferKind) -> RowFlight:
        """Send rows gathered on the host, ``[n, hidden_size]``; returns before they have arrived."""

    def staging(self, num_rows: int) -> torch.Tensor:
        """Return memory on the host to gather rows in, ``[num_rows, hidden_size]``."""

    def drain(self) -> None:
        """Wait until nothing is on its way."""

    def close(self) -> None:
        """Wait for what is on its way, and end."""


class EmulatedRowLink:
    """The link of a machine without a GPU: the emulated one of the paged cache, in which a page is a row."""

    def __init__(self, hidden_size: int, dtype: torch.dtype, bandwidth_bytes_per_s: float) -> None:
        self.page_bytes = hidden_size * dtype.itemsize
        self._hidden_size, self._dtype = hidden_size, dtype
        self._sent = 0
        self._on_the_way: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}
        self._link = EmulatedLink(self, bandwidth_bytes_per_s)

    def staging(self, num_rows: int) -> torch.Tensor:
        """Return memory of the host."""
        return torch.empty((num_rows, self._hidden_size), dtype=self._dtype)

    def send(self, staged: torch.Tensor, kind: TransferKind) -> RowFlight:
        """Hand rows to the worker."""
        rows = torch.empty_like(staged)
        pages = np.arange(self._sent, self._sent + len(staged))
        self._on_the_way[self._sent] = _bytes_of(rows), _bytes_of(staged)
        self._sent += len(staged)
        transfer = Transfer(kind=kind, pages=pages, slots=pages, step=0)
        self._link.submit(transfer)
        return _EmulatedFlight(rows, transfer, self._link)

    def load(self, pages: NDArray[np.int64], slots: NDArray[np.int64]) -> int:
        """Copy the rows of one transfer: what the worker calls."""
        del slots
        target, source = self._on_the_way.pop(int(pages[0]))
        np.copyto(target, source)
        return len(source)

    def store(self, pages: NDArray[np.int64], slots: NDArray[np.int64]) -> int:
        """Nothing is ever written back: a table does not change."""
        raise NotImplementedError(f"{len(pages)} rows to {len(slots)} slots")

    def drain(self) -> None:
        """Wait until nothing is on its way."""
        self._link.drain()

    def close(self) -> None:
        """Finish what is queued and end the threads."""
        self._link.close()


class _EmulatedFlight:
    def __init__(self, rows: torch.Tensor, transfer: Transfer, link: EmulatedLink) -> None:
        self.rows, self._transfer, self._link = rows, transfer, link

    @property
    def is_done(self) -> bool:
        return self._transfer.is_done

    def wait(self) -> int:
        self._link.wait([self._transfer])
        return self._transfer.num_copied


class CudaRowLink:
    """Pinned memory and copy streams; a stream cannot reorder, so misses have another than what comes early.

    Written where no GPU was available: it has not run yet.
    """

    def __init__(self, hidden_size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._hidden_size, self._dtype, self._device = hidden_size, dtype, device
        self._streams = {kind: torch.cuda.Stream(device) for kind in ("demand", "prefetch")}  # type: ignore[no-untyped-call]

    def staging(self, num_rows: int) -> torch.Tensor:
        """Return pinned memory; torch keeps it until the copy that reads it is done."""
        return torch.empty((num_rows, self._hidden_size), dtype=self._dtype, pin_memory=True)

    def send(self, staged: torch.Tensor, kind: TransferKind) -> RowFlight:
        """Issue the copy."""
        stream = self._streams[kind]
        with torch.cuda.stream(stream):
            rows = staged.to(self._device, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(stream)
        return _CudaFlight(rows, arrived, len(staged))

    def drain(self) -> None:
        """Wait until nothing is on its way."""
        for stream in self._streams.values():
            stream.synchronize()

    def close(self) -> None:
        """Wait until the copies are done; the streams go with the object."""
        self.drain()


class _CudaFlight:
    def __init__(self, rows: torch.Tensor, arrived: torch.cuda.Event, num_rows: int) -> None:
        self.rows, self._arrived, self._num_rows = rows, arrived, num_rows

    @property
    def is_done(self) -> bool:
        return bool(self._arrived.query())  # type: ignore[no-untyped-call]

    def wait(self) -> int:
        stream = torch.cuda.current_stream(self.rows.device)
        stream.wait_event(self._arrived)
        self.rows.record_stream(stream)
        return self._num_rows


def make_row_link(table: torch.Tensor, device: torch.device, bandwidth_bytes_per_s: float | None) -> RowLink:
    """Return the link over which rows of `table` come to `device`.

    Raises
    ------
    KvsimError
        If there is no GPU, and no bandwidth of an emulated link.
    """
    if device.type == "cuda":
        return CudaRowLink(table.shape[1], table.dtype, device)
    if bandwidth_bytes_per_s is None:
        raise KvsimError("rows of an embedding: without a GPU the emulated link needs bandwidth_bytes_per_s")
    return EmulatedRowLink(table.shape[1], table.dtype, bandwidth_bytes_per_s)


def _bytes_of(rows: torch.Tensor) -> NDArray[Any]:
    """Return the bytes of rows as an array on the same memory."""
    array: NDArray[Any] = rows.view(torch.uint8).numpy()
    return array
