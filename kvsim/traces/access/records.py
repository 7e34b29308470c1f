"""The numbers of one record: what is written into it, what may stand in it, and where a file holds it."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.traces.access.base import MASS
from kvsim.traces.access.header import NUMPY_DTYPES, Channel, RecordLayout, TraceHeader
from kvsim.types import IntArray, pages_of

_SUM_TOLERANCE = 0.01
"""How far the masses of a row may sum from 1. f16 rounds each to within 1/2048 of itself."""


def context_problem(header: TraceHeader, last: IntArray, context: IntArray) -> str | None:
    """Return what is wrong with the context of a step that follows one of `last` tokens, or None."""
    if context.shape != (header.num_sequences,):
        return f"has context_tokens of shape {list(context.shape)}, where [{header.num_sequences}] is wanted"
    if context.min() < 1 or context.max() > header.max_tokens or (context < last).any():
        return f"has context_tokens {context.tolist()[:8]}: from 1 to {header.max_tokens}, never shrinking, is wanted"
    return None


def value_problem(channel: Channel, rows: NDArray[Any]) -> str | None:
    """Return whether some number of `rows` is what no score may be: negative, infinite or not a number.

    Compared as integers, where one bound finds all three.
    """
    if channel.dtype == "bits":
        return None
    bits, bound = ("<u2", 0x7C00) if channel.dtype == "f16" else ("<u4", 0x7F800000)
    return "holds a negative number or one that is not finite" if rows.view(bits).max() >= bound else None


def row_problem(channel: Channel, rows: NDArray[Any], context: IntArray, last: IntArray) -> str | None:
    """Return what is wrong with `rows`, ``[num_sequences, num_layers, width]``: past its sequence, or in its sum.

    A sequence whose context is the `last` one may have ended, and has no mass then.
    """
    for sequence, tokens in enumerate(context.tolist()):
        pages = pages_of(tokens, channel.page_tokens)
        if channel.dtype != "bits":
            tail = rows[sequence, :, pages:]
        else:
            tail = np.unpackbits(rows[sequence], axis=-1, bitorder="little")[:, pages:]
        if tail.any():
            return f"holds something past the {tokens} tokens of sequence {sequence}"
    goes_on = (context > last) | rows.any(axis=(1, 2)) if channel.name == MASS else np.zeros(0, np.bool_)
    if goes_on.any():
        total = rows[goes_on].sum(axis=-1, dtype=np.float32).ravel()
        worst = total[np.abs(total - 1).argmax()]
        if abs(worst - 1) > _SUM_TOLERANCE:
            return f"has masses that sum to {worst:.4g} where 1 is wanted"
    return None


def fill_rows(rows: NDArray[Any], channel: Channel, header: TraceHeader, values: NDArray[Any]) -> str | None:
    """Write `values` into `rows` in the channel's dtype, or return what is wrong with their shape."""
    width = channel.width if channel.dtype != "bits" else pages_of(header.max_tokens, channel.page_tokens)
    if values.ndim != 3 or values.shape[:2] != rows.shape[:2] or values.shape[2] > width:
        return f"has shape {list(values.shape)}, where [{rows.shape[0]}, {rows.shape[1]}, at most {width}] is wanted"
    if channel.dtype == "bits":
        packed = np.packbits(values.astype(np.bool_), axis=-1, bitorder="little")
        rows[..., : packed.shape[-1]] = packed
        return None
    with np.errstate(over="ignore"):  # what f16 cannot hold becomes infinite, and that is an error of its own
        rows[..., : values.shape[2]] = values.astype(rows.dtype) + rows.dtype.type(0)  # + 0 turns -0.0 into 0.0
    return None


def record_rows(record: NDArray[np.uint8], layout: RecordLayout, header: TraceHeader, channel: Channel) -> NDArray[Any]:
    """Return a channel of one record in memory, ``[num_sequences, num_layers, width]``, as a view."""
    shape = (header.num_sequences, header.num_layers, channel.width)
    offset = layout.offsets_bytes[channel.name]
    return np.ndarray(shape, NUMPY_DTYPES[channel.dtype], buffer=record.data, offset=offset)


def file_rows(
    data: mmap.mmap, data_offset: int, num_steps: int, layout: RecordLayout, header: TraceHeader, channel: Channel
) -> NDArray[Any]:
    """Return a channel of every record of a file, ``[num_steps, num_sequences, num_layers, width]``, as a view."""
    dtype = NUMPY_DTYPES[channel.dtype]
    row_bytes = channel.width * dtype.itemsize
    return np.ndarray(
        (num_steps, header.num_sequences, header.num_layers, channel.width),
        dtype,
        buffer=data,
        offset=data_offset + layout.offsets_bytes[channel.name],
        strides=(layout.record_bytes, header.num_layers * row_bytes, row_bytes, dtype.itemsize),
    )
