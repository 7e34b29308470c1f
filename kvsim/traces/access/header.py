"""What a trace file says of itself, and where that puts every byte: header, channels, the layout of a record."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from kvsim.scenario.shapes import DType, ModelShape
from kvsim.scenario.toml import Strict
from kvsim.traces.access.base import MASS
from kvsim.types import UNIT_TOKENS, pages_of

MAGIC = b"KVTRACE\n"
END_MAGIC = b"EVTK"
VERSION = 1
ALIGN_BYTES = 64
MAX_HEADER_BYTES = 2**20
"""No header is longer; a file that claims more is refused before anything is read by that claim."""

SELECTION = "selection"
"""Channel of the pages that the engine attended, one bit a page."""

ChannelDType: TypeAlias = Literal["f16", "f32", "bits"]
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {"f16": np.dtype("<f2"), "f32": np.dtype("<f4"), "bits": np.dtype("u1")}

_SCORED = re.compile(r"(?P<name>(estimate|speculate):[a-z0-9][a-z0-9-]{0,40})@(?P<page>[1-9][0-9]{0,6})\Z")
_SELECTION = re.compile(r"(?P<name>selection)@(?P<page>[1-9][0-9]{0,6})\Z")


def _printable(text: str) -> str:
    if not all(part.isprintable() for part in text.split("\n")):
        raise ValueError("holds characters that do not print")
    return text


Text: TypeAlias = Annotated[str, Field(max_length=65_536), AfterValidator(_printable)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Channel(Strict):
    """One named array of a record, ``[num_sequences, num_layers, width]``.

    In the file the name of everything but ``mass`` ends in ``@`` and its page size, as in ``estimate:quest@32``.
    """

    name: Annotated[str, Field(max_length=80)]
    dtype: ChannelDType
    width: Count
    """Numbers in a row: units for ``mass``, pages for scores, bytes of eight pages for ``selection``."""

    @model_validator(mode="after")
    def _is_known(self) -> Channel:
        allowed = _SELECTION if self.dtype == "bits" else _SCORED
        match = allowed.match(self.name)
        if match is None and (self.name != MASS or self.dtype == "bits"):
            raise ValueError(
                "a channel is 'mass', 'estimate:NAME@TOKENS' or 'speculate:NAME@TOKENS' in f16 or f32, "
                "or 'selection@TOKENS' in bits"
            )
        if self.page_tokens % UNIT_TOKENS:
            raise ValueError(f"the page size of a channel must be a multiple of {UNIT_TOKENS}")
        return self

    @property
    def page_tokens(self) -> int:
        """Tokens of one score: a page, or a unit of 16 for ``mass``."""
        return UNIT_TOKENS if self.name == MASS else int(self.name.rpartition("@")[2])

    @property
    def score(self) -> str:
        """The name without the page size, as an `AccessSource` has it."""
        return self.name.partition("@")[0]


def channel_of(name: str, max_tokens: int, dtype: ChannelDType = "f16") -> Channel:
    """Return the channel `name`, wide enough for `max_tokens` tokens; a selection is always in bits.

    Examples
    --------
    >>> channel_of("estimate:quest@32", 4224)
    Channel(name='estimate:quest@32', dtype='f16', width=132)
    >>> channel_of("selection@32", 4224).width
    17
    """
    dtype = "bits" if name.startswith(SELECTION) else dtype
    return Channel(name=name, dtype=dtype, width=_width(name, dtype, max_tokens))


def _width(name: str, dtype: ChannelDType, max_tokens: int) -> int:
    tail = name.rpartition("@")[2]
    pages = pages_of(max_tokens, int(tail) if tail.isdigit() and int(tail) else UNIT_TOKENS)
    return pages_of(pages, 8) if dtype == "bits" else pages


class TraceHeader(Strict):
    """Where a trace comes from and what each of its records holds."""

    model: Text
    """The model's name, as a person would look for it."""
    shape: ModelShape
    text: Text = ""
    """What was read, in a few words."""
    text_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Digest of the text; None where there was none (a synthetic trace)."""
    compute_dtype: DType
    """What the model computed in while it was recorded."""
    recorded: Literal["teacher-forced", "sampled", "greedy", "synthetic"]
    """Where each next token came from."""
    num_layers: Count
    num_sequences: Count
    prompt_tokens: tuple[Count, ...]
    """Tokens of each sequence before the first decode step."""
    max_tokens: Count
    """Most tokens a sequence may reach: it fixes the width of every channel."""
    channels: tuple[Channel, ...] = Field(max_length=64)
    recipe: Text = ""
    """How to make it again: the command and what it needs."""

    @model_validator(mode="after")
    def _is_consistent(self) -> TraceHeader:
        names = [channel.name for channel in self.channels]
        if MASS not in names or len(set(names)) != len(names):
            raise ValueError(f"channels must hold 'mass' and name nothing twice, found {names}")
        for channel in self.channels:
            width = _width(channel.name, channel.dtype, self.max_tokens)
            if channel.width != width:
                raise ValueError(
                    f"channel {channel.name} has width {channel.width}, {self.max_tokens} tokens need {width}"
                )
        if len(self.prompt_tokens) != self.num_sequences or max(self.prompt_tokens) > self.max_tokens:
            raise ValueError("prompt_tokens must hold one number a sequence, none above max_tokens")
        if self.num_layers > self.shape.num_layers:
            raise ValueError(f"num_layers is {self.num_layers}, the shape has {self.shape.num_layers}")
        return self

    def channel(self, name: str) -> Channel | None:
        """Return the channel of that name in the file, or None."""
        return next((channel for channel in self.channels if channel.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordLayout:
    """Where the parts of a record of one step lie, in bytes from its beginning."""

    offsets_bytes: dict[str, int]
    """By channel; ``context_tokens`` is at 0."""
    record_bytes: int


def layout_of(header: TraceHeader) -> RecordLayout:
    """Return the layout of a record: every part begins at a multiple of 64 bytes, in the header's order."""
    offset = align(4 * header.num_sequences)
    offsets: dict[str, int] = {}
    for channel in header.channels:
        offsets[channel.name] = offset
        row_bytes = channel.width * NUMPY_DTYPES[channel.dtype].itemsize
        offset = align(offset + header.num_sequences * header.num_layers * row_bytes)
    return RecordLayout(offsets_bytes=offsets, record_bytes=offset)


def align(size_bytes: int) -> int:
    """Return the next multiple of 64 bytes."""
    return -(-size_bytes // ALIGN_BYTES) * ALIGN_BYTES
