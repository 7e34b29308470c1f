"""The access-trace file (docs/traces.md): a streaming writer and a memory-mapped reader that trusts nothing in it."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from kvsim.errors import TraceError
from kvsim.scenario.whole_files import temporary_name
from kvsim.traces.access.base import MASS
from kvsim.traces.access.header import (
    END_MAGIC,
    MAGIC,
    MAX_HEADER_BYTES,
    SELECTION,
    VERSION,
    TraceHeader,
    align,
    layout_of,
)
from kvsim.traces.access.records import context_problem, file_rows, fill_rows, record_rows, row_problem, value_problem
from kvsim.types import UNIT_TOKENS, BoolArray, IntArray, Scores, pages_of

_PREFIX = struct.Struct("<8sII")  # magic, version, bytes of the header
_FOOTER = struct.Struct("<QI4s")  # steps, CRC-32 of every byte before the CRC, end magic
_CRC_TAIL_BYTES = 8


class TraceWriter:
    """Writes a trace step by step; the file has its name only once it is whole.

    A context manager: it writes under a temporary name of its own and renames when the block ends well. An exception,
    Ctrl-C included, removes that file.

    Raises
    ------
    TraceError
        From every method: a value that no reader would take, a folder or disk that does not.
    """

    def __init__(self, path: Path, header: TraceHeader) -> None:
        self.path = path
        self.header = header
        self.num_steps = 0
        self._partial = temporary_name(path)
        self._layout = layout_of(header)
        self._last_context: IntArray = np.zeros(header.num_sequences, dtype=np.int64)
        self._crc = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> TraceWriter:
        text = self.header.model_dump_json().encode()
        if len(text) > MAX_HEADER_BYTES:
            raise TraceError(self.path, f"the header has {len(text)} bytes, at most {MAX_HEADER_BYTES} are allowed")
        head = _PREFIX.pack(MAGIC, VERSION, len(text)) + text
        try:
            self._file = self._partial.open("wb")
        except OSError as problem:
            raise TraceError(self.path, f"cannot be written: {problem.strerror}") from None
        try:
            self._write(head.ljust(align(len(head)), b"\0"))
        except BaseException:
            self._discard()
            raise
        return self

    def append(self, context_tokens: ArrayLike, values: Mapping[str, ArrayLike]) -> None:
        """Write the record of the next step.

        Parameters
        ----------
        context_tokens
            Tokens each sequence attends to, the new one included, ``[num_sequences]``.
        values
            For every channel of the header, by its name in the file: ``[num_sequences, num_layers, n]`` with `n` at
            most what `max_tokens` needs; what is left out is 0. A selection is given as one truth value a page.
        """
        context = np.asarray(context_tokens, dtype=np.int64)
        problem = context_problem(self.header, self._last_context, context)
        if not problem and set(values) != {channel.name for channel in self.header.channels}:
            names = [channel.name for channel in self.header.channels]
            problem = f"holds channels {sorted(values)}, the header promises {names}"
        record = np.zeros(self._layout.record_bytes, dtype=np.uint8)
        record[: 4 * context.size].view("<i4")[:] = context if not problem else 0
        for channel in () if problem else self.header.channels:
            rows = record_rows(record, self._layout, self.header, channel)
            problem = fill_rows(rows, channel, self.header, np.asarray(values[channel.name]))
            problem = problem or value_problem(channel, rows) or row_problem(channel, rows, context, self._last_context)
            if problem:
                problem = f"channel {channel.name} {problem}"
                break
        if problem:
            raise TraceError(self.path, f"step {self.num_steps} cannot be written: {problem}")
        self._write(record.data)
        self._last_context = context
        self.num_steps += 1

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._finish()
        except BaseException:
            self._discard()
            raise

    def _finish(self) -> None:
        if not self.num_steps:
            raise TraceError(self.path, "no step was written; a trace holds at least one")
        self._write(struct.pack("<Q", self.num_steps))
        self._write(struct.pack("<I", self._crc) + END_MAGIC)
        assert self._file is not None
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self.path)
        except OSError as problem:
            raise TraceError(self.path, f"cannot be written: {problem.strerror}") from None

    def _write(self, data: bytes | memoryview) -> None:
        if self._file is None or self._file.closed:
            raise TraceError(self.path, "is not open: use TraceWriter in a with block")
        self._crc = zlib.crc32(data, self._crc)
        try:
            self._file.write(data)
        except OSError as problem:
            raise TraceError(self.path, f"cannot be written: {problem.strerror}") from None

    def _discard(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        with contextlib.suppress(OSError):
            self._partial.unlink(missing_ok=True)


class TraceFile:
    """A trace on disk as an `AccessSource`; its arrays are views of the file and nothing is copied until it is used.

    It pickles as its path. The file must not change while it is open.
    """

    def __init__(self, path: Path, header: TraceHeader, data: mmap.mmap, num_steps: int, data_offset: int) -> None:
        self.path = path
        self.header = header
        self.num_steps = num_steps
        layout = layout_of(header)
        self._context: NDArray[np.int32] = np.ndarray(
            (num_steps, header.num_sequences),
            np.dtype("<i4"),
            buffer=data,
            offset=data_offset,
            strides=(layout.record_bytes, 4),
        )
        self._rows = {
            channel.name: file_rows(data, data_offset, num_steps, layout, header, channel)
            for channel in header.channels
        }
        self._longest_tokens = [int(tokens) for tokens in self._context.max(axis=1)]

    def __reduce__(self) -> tuple[Callable[..., TraceFile], tuple[Path, bool]]:
        return open_trace, (self.path, False)

    @property
    def text(self) -> str:
        """What was read, in words."""
        return self.header.text

    @property
    def num_layers(self) -> int:
        """Layers recorded."""
        return self.header.num_layers

    @property
    def num_sequences(self) -> int:
        """Sequences of the batch."""
        return self.header.num_sequences

    @property
    def channels(self) -> tuple[str, ...]:
        """Score channels without their page sizes, ``mass`` first."""
        names = [channel.score for channel in self.header.channels if channel.score != SELECTION]
        return tuple(dict.fromkeys([MASS, *names]))

    def context_tokens(self, step: int) -> IntArray:
        """Return the tokens each sequence attends to at `step`, ``[num_sequences]``."""
        self._check(step, 0)
        tokens: IntArray = self._context[step].astype(np.int64)
        return tokens

    def scores(self, step: int, layer: int, channel: str, page_tokens: int) -> Scores:
        """Return one channel by page, ``[num_sequences, num_pages]``: a view of the file, or sums of `mass`."""
        if channel == MASS:
            return self.mass(step, layer, page_tokens)
        self._check(step, layer)
        rows = self._rows.get(f"{channel}@{page_tokens}") if channel != SELECTION else None
        if rows is None:
            raise TraceError(self.path, f"no channel {channel!r} for pages of {page_tokens} tokens; {self._has()}")
        view: Scores = rows[step, :, layer, : pages_of(self._longest_tokens[step], page_tokens)]
        return view

    def mass(self, step: int, layer: int, page_tokens: int) -> Scores:
        """Return the attention mass of each page, the sum of its 16-token units, ``[num_sequences, num_pages]``.

        Pages of one unit are a view in the file's dtype. Others are float32: f16 masses are multiples of
        2**-24 and sum to at most about 1, so that the sum is exact in whatever order it is made.
        """
        self._check(step, layer)
        if page_tokens < UNIT_TOKENS or page_tokens % UNIT_TOKENS:
            raise TraceError(
                self.path, f"mass is by units of {UNIT_TOKENS} tokens: no pages of {page_tokens}, which is no multiple"
            )
        units: Scores = self._rows[MASS][step, :, layer, : pages_of(self._longest_tokens[step], UNIT_TOKENS)]
        if page_tokens == UNIT_TOKENS:
            return units
        pages: Scores = np.add.reduceat(
            units, np.arange(0, units.shape[1], page_tokens // UNIT_TOKENS), axis=1, dtype=np.float32
        )
        return pages

    def selection(self, step: int, layer: int, page_tokens: int) -> BoolArray | None:
        """Return the pages the engine attended, ``[num_sequences, num_pages]``, or None where it recorded none."""
        self._check(step, layer)
        rows = self._rows.get(f"{SELECTION}@{page_tokens}")
        if rows is None:
            return None
        count = pages_of(self._longest_tokens[step], page_tokens)
        return np.unpackbits(rows[step, :, layer], axis=-1, count=count, bitorder="little").astype(np.bool_)

    def record(self, step: int) -> dict[str, NDArray[Any]]:
        """Return what `TraceWriter.append` was given at `step`, by channel name: ``[num_sequences, num_layers, n]``."""
        self._check(step, 0)
        values: dict[str, NDArray[Any]] = {}
        for channel in self.header.channels:
            count = pages_of(self._longest_tokens[step], channel.page_tokens)
            rows = self._rows[channel.name][step]
            if channel.score == SELECTION:
                values[channel.name] = np.unpackbits(rows, axis=-1, count=count, bitorder="little").astype(np.bool_)
            else:
                values[channel.name] = rows[..., :count]
        return values

    def _check(self, step: int, layer: int) -> None:
        if not (0 <= step < self.num_steps and 0 <= layer < self.num_layers):
            raise TraceError(
                self.path,
                f"no step {step}, layer {layer}: it holds steps 0 to {self.num_steps - 1} "
                f"of layers 0 to {self.num_layers - 1}",
            )

    def _has(self) -> str:
        return "it holds " + ", ".join(channel.name for channel in self.header.channels)

    def _problem(self) -> str | None:
        last = np.zeros(self.num_sequences, dtype=np.int64)
        for step in range(self.num_steps):
            context = self._context[step].astype(np.int64)
            problem = context_problem(self.header, last, context)
            if problem:
                return f"step {step} {problem}"
            last = context
        return None

    def _content_problem(self) -> str | None:
        contexts = self._context.astype(np.int64)
        lasts = np.concatenate((np.zeros_like(contexts[:1]), contexts[:-1]))
        for channel in self.header.channels:
            for step in range(self.num_steps):
                rows = self._rows[channel.name][step]
                problem = value_problem(channel, rows) or row_problem(channel, rows, contexts[step], lasts[step])
                if problem:
                    return f"step {step}, channel {channel.name} {problem}"
        return None


def open_trace(path: Path, verify: bool = True) -> TraceFile:
    """Return the trace in `path`, memory-mapped.

    Sizes are checked against the file before anything is built from them. `verify` also reads the file once: its
    checksum, and that every number is finite, not negative, inside its sequence, and that masses sum to 1.

    Raises
    ------
    TraceError
        If it is not a trace, of another version, cut short, damaged, or says what no trace may.
    """
    data = _map(path)
    size_bytes = len(data)
    if size_bytes < _PREFIX.size + _FOOTER.size or data[: len(MAGIC)] != MAGIC:
        raise TraceError(path, "not an access trace; `kvsim capture` makes one")
    _, version, header_bytes = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise TraceError(path, f"format version {version}, this kvsim reads {VERSION}; capture it again")
    num_steps, crc, end = _FOOTER.unpack_from(data, size_bytes - _FOOTER.size)
    data_offset = align(_PREFIX.size + header_bytes)
    if end != END_MAGIC or header_bytes > MAX_HEADER_BYTES or data_offset > size_bytes - _FOOTER.size:
        raise TraceError(path, "cut short, or no trace: it does not end as a trace does")
    if verify:
        with memoryview(data) as view, view[:-_CRC_TAIL_BYTES] as body:
            if zlib.crc32(body) != crc:
                raise TraceError(path, "damaged: its checksum is not that of its bytes")
    header = _parse_header(path, data[_PREFIX.size : _PREFIX.size + header_bytes])
    record_bytes = layout_of(header).record_bytes
    body_bytes = size_bytes - _FOOTER.size - data_offset
    if num_steps < 1 or num_steps * record_bytes != body_bytes:
        raise TraceError(
            path, f"claims {num_steps} records of {record_bytes} bytes, where there are {body_bytes} bytes for them"
        )
    trace = TraceFile(path, header, data, num_steps, data_offset)
    problem = trace._problem() or (trace._content_problem() if verify else None)
    if problem:
        raise TraceError(path, problem)
    return trace


def _map(path: Path) -> mmap.mmap:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise TraceError(path, "not a file")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as problem:
        raise TraceError(path, f"cannot be read: {problem.strerror or problem}") from None
    except ValueError:
        raise TraceError(path, "an empty file") from None


def _parse_header(path: Path, text: bytes) -> TraceHeader:
    try:
        return TraceHeader.model_validate_json(text)
    except ValidationError as problem:
        detail = problem.errors(include_url=False, include_context=False, include_input=False)[0]
        key = ascii(".".join(str(part) for part in detail["loc"]))[:80]
        raise TraceError(path, f"its header is wrong at {key}: {ascii(detail['msg'])[1:201]}") from None
