"""Accesses in memory: a trace made of numpy arrays, replayed like one that was read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvsim.errors import TraceError
from kvsim.scenario.digest import FILE_BYTES, content_digest
from kvsim.traces.access.base import MASS
from kvsim.types import UNIT_TOKENS, BoolArray, IntArray, Scores, pages_of

NAME = "arrays"
"""What messages and results call a trace that no file holds."""
_SUM_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Accesses of one batch in decode, as arrays; make one with `from_arrays`."""

    page_mass: NDArray[np.float32]
    """Attention mass, ``[num_steps, num_sequences, num_layers, num_pages]``."""
    page_scores: Mapping[str, NDArray[np.float32]]
    """Score channels by name, each of the shape of `page_mass`."""
    page_tokens: int
    context: IntArray
    """Tokens each sequence attends to, the new one included, ``[num_steps, num_sequences]``."""
    text: str = ""
    """What was read, in words."""

    @classmethod
    def from_arrays(
        cls,
        mass: ArrayLike,
        scores: Mapping[str, ArrayLike] | None = None,
        *,
        page_tokens: int,
        context_tokens: ArrayLike | None = None,
        text: str = "",
    ) -> Trace:
        """Return a trace of arrays by step, layer and page.

        Parameters
        ----------
        mass
            Share of the attention that each page gets, ``[num_steps, num_layers, num_pages]``, or with a batch
            ``[num_steps, num_sequences, num_layers, num_pages]``. The pages of a layer sum to 1, or are 0 once their
            sequence has ended.
        scores
            What a selector may see of the pages, of the same shape as `mass`, by name: ``quest`` is the channel
            ``estimate:quest`` of a scenario.
        page_tokens
            Tokens of a page, a multiple of 16.
        context_tokens
            Tokens attended to at each step, ``[num_steps]`` or ``[num_steps, num_sequences]``. Where absent, the last
            step fills the last page and each step before has a token less. They may differ between sequences; those
            of one that has ended stay what they were.

        Raises
        ------
        TraceError
            If shapes differ, or numbers are not what they should be.

        Examples
        --------
        >>> mass = np.full((3, 2, 4), 0.25)  # 3 steps, 2 layers, 4 pages
        >>> trace = Trace.from_arrays(mass, page_tokens=16)
        >>> trace.num_steps, trace.num_layers, trace.context_tokens(0)
        (3, 2, array([62]))
        """
        if page_tokens < UNIT_TOKENS or page_tokens % UNIT_TOKENS:
            raise TraceError(NAME, f"page_tokens should be a multiple of {UNIT_TOKENS}, found {page_tokens}")
        page_mass = _array(MASS, mass)
        context = _context(context_tokens, page_mass, page_tokens)
        page_scores = {_channel(name): _array(name, values) for name, values in (scores or {}).items()}
        for name, values in {MASS: page_mass, **page_scores}.items():
            _check(name, values, page_mass.shape, context, page_tokens)
        has_ended = np.diff(context, axis=0, prepend=0) == 0
        has_ended &= ~page_mass.any(axis=(2, 3))
        worst = float(np.abs(page_mass.sum(axis=-1, dtype=np.float64)[~has_ended] - 1).max())
        if worst > _SUM_TOLERANCE:
            raise TraceError(NAME, f"the masses of a layer sum to 1, found {worst:.3g} off; divide each row by its sum")
        return cls(page_mass=page_mass, page_scores=page_scores, page_tokens=page_tokens, context=context, text=text)

    @property
    def num_steps(self) -> int:
        """Decode steps."""
        return int(self.page_mass.shape[0])

    @property
    def num_sequences(self) -> int:
        """Sequences of the batch."""
        return int(self.page_mass.shape[1])

    @property
    def num_layers(self) -> int:
        """Layers."""
        return int(self.page_mass.shape[2])

    @property
    def channels(self) -> tuple[str, ...]:
        """Names that `scores` knows."""
        return (MASS, *self.page_scores)

    @property
    def digest(self) -> str:
        """A digest of all numbers: equal digests, equal accesses."""
        named = [part for name, values in sorted(self.page_scores.items()) for part in (name, values)]
        sizes = f"{self.page_tokens} {self.page_mass.shape}"
        return content_digest(sizes, self.page_mass, self.context, *named, num_bytes=FILE_BYTES)

    def context_tokens(self, step: int) -> IntArray:
        """Return the tokens each sequence attends to at `step`, ``[num_sequences]``."""
        tokens: IntArray = self.context[step]
        return tokens

    def scores(self, step: int, layer: int, channel: str, page_tokens: int) -> Scores:
        """Return one channel by page, ``[num_sequences, num_pages]``.

        Raises
        ------
        TraceError
            If there is no such channel for this page size.
        """
        if channel == MASS:
            return self.mass(step, layer, page_tokens)
        if channel not in self.page_scores or page_tokens != self.page_tokens:
            raise TraceError(
                NAME,
                f"no channel {channel!r} for pages of {page_tokens} tokens; there are "
                f"{', '.join(self.channels)} for pages of {self.page_tokens}",
            )
        return self.page_scores[channel][step, :, layer, : self._num_pages(step)]

    def mass(self, step: int, layer: int, page_tokens: int) -> Scores:
        """Return the attention mass of each page, ``[num_sequences, num_pages]``: sums of those that were given."""
        if page_tokens % self.page_tokens:
            raise TraceError(NAME, f"mass is by pages of {self.page_tokens} tokens: no pages of {page_tokens}")
        pages = self.page_mass[step, :, layer, : self._num_pages(step)]
        if page_tokens == self.page_tokens:
            return pages
        starts = np.arange(0, pages.shape[1], page_tokens // self.page_tokens)
        summed: Scores = np.add.reduceat(pages, starts, axis=1, dtype=np.float32)
        return summed

    def selection(self, step: int, layer: int, page_tokens: int) -> BoolArray | None:
        """Return None: what an engine chose is not known."""
        del step, layer, page_tokens
        return None

    def _num_pages(self, step: int) -> int:
        return pages_of(int(self.context[step].max()), self.page_tokens)


def _array(name: str, values: ArrayLike) -> NDArray[np.float32]:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" or array.ndim not in (3, 4) or not array.size:
        raise TraceError(
            NAME,
            f"{name} should hold numbers by step, layer and page (or step, sequence, layer and page), found "
            f"{array.dtype} of shape {list(array.shape)}",
        )
    return np.ascontiguousarray(array if array.ndim == 4 else array[:, None], dtype=np.float32)


def _channel(name: str) -> str:
    return name if ":" in name else f"estimate:{name}"


def _context(lengths: ArrayLike | None, mass: NDArray[Any], page_tokens: int) -> IntArray:
    """Return the context of each step and sequence."""
    num_steps, num_sequences, _, num_pages = mass.shape
    if lengths is None:
        lengths = num_pages * page_tokens - np.arange(num_steps)[::-1]
    context = np.asarray(lengths)
    context = context[:, None] if context.ndim == 1 else context
    if context.dtype.kind not in "iu" or context.shape[0] != num_steps or context.shape[1] not in (1, num_sequences):
        raise TraceError(NAME, f"context_tokens should be a whole number for each of {num_steps} steps")
    context = np.broadcast_to(context, (num_steps, num_sequences)).astype(np.int64)
    if context.min() < 1 or context.max() > num_pages * page_tokens or (np.diff(context, axis=0) < 0).any():
        raise TraceError(
            NAME,
            f"context_tokens should grow from 1 to at most {num_pages * page_tokens}, what {num_pages} pages hold; "
            f"found {int(context.min())} to {int(context.max())}",
        )
    return context


def _check(name: str, values: NDArray[Any], shape: tuple[int, ...], context: IntArray, page_tokens: int) -> None:
    if values.shape != shape:
        raise TraceError(NAME, f"{name} has shape {list(values.shape)}, mass has {list(shape)}")
    if not np.isfinite(values).all() or values.min() < 0:
        raise TraceError(NAME, f"{name} holds a negative number or one that is not finite")
    counts = -(-context // page_tokens)  # [num_steps, num_sequences]
    is_past = np.arange(shape[-1]) >= counts[..., None]
    if (values.any(axis=2) & is_past).any():
        raise TraceError(NAME, f"{name} holds something past the context of a step; give context_tokens as it is")
