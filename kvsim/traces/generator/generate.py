"""Accesses drawn from stated parameters: any context and number of layers, deterministic by seed, a step at a time."""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import TraceError
from kvsim.traces.access.base import MASS
from kvsim.traces.access.statistics import RECENT_TOKENS, recent_pages
from kvsim.traces.generator.parameters import GeneratorParameters
from kvsim.traces.generator.process import Process, columns_of, estimates, masses, shares_at
from kvsim.types import BoolArray, IntArray, Scores, pages_of

_CACHED_STEPS = 2
"""Steps whose scores are kept; an older one is made again from the seed."""
_CACHED_BYTES = 2**26
"""Scores of more steps stay as long as all of them take no more than this."""


class SyntheticSource:
    """Generated accesses as an `AccessSource`, at the one page size of its parameters.

    Step 0 attends to `context_tokens` tokens, the new one included; every step adds one. Steps are made in order and
    kept where all of them are small: else ask for increasing steps, or pay for the way from step 0 again.

    Parameters
    ----------
    middle_growth
        Share of the recent window's mass that goes to the middle at each doubling of the context over the one that
        the parameters were seen at; a shorter context changes nothing.

    Raises
    ------
    TraceError
        If `page_tokens` is not the parameters' own, or the context leaves no middle.
    """

    def __init__(
        self,
        parameters: GeneratorParameters,
        *,
        context_tokens: int,
        num_steps: int,
        num_layers: int | None = None,
        num_sequences: int = 1,
        page_tokens: int | None = None,
        seed: int = 0,
        middle_growth: float = 0.0,
    ) -> None:
        self.parameters = parameters
        self.num_steps = num_steps
        self.num_layers = num_layers or len(parameters.layers)
        self.num_sequences = num_sequences
        self.page_tokens = page_tokens or parameters.page_tokens
        self.seed = seed
        self.middle_growth = middle_growth
        self._context_tokens = context_tokens
        self._check()
        self._columns = columns_of([parameters.layer_for(layer, self.num_layers) for layer in range(self.num_layers)])
        self._process = Process(self._columns, num_sequences, seed)
        self._cached: dict[int, dict[str, NDArray[np.float16]]] = {}
        self._max_cached = self._steps_to_keep()
        self._next_step = 0

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], SyntheticSource], tuple[dict[str, Any]]]:
        arguments: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("parameters", "num_steps", "num_layers", "num_sequences", "page_tokens", "seed")
        }
        return _make, (arguments | {"context_tokens": self._context_tokens, "middle_growth": self.middle_growth},)

    @property
    def channels(self) -> tuple[str, ...]:
        """``mass``, and the channel that the parameters were fitted to."""
        return (MASS, self.parameters.channel) if self.parameters.channel else (MASS,)

    def context_tokens(self, step: int) -> IntArray:
        """Return the tokens each sequence attends to at `step`, the same for all, ``[num_sequences]``."""
        return np.full(self.num_sequences, self._context_tokens + step, dtype=np.int64)

    def scores(self, step: int, layer: int, channel: str, page_tokens: int) -> Scores:
        """Return one channel by page, ``[num_sequences, num_pages]``, in f16."""
        if page_tokens != self.page_tokens or channel not in self.channels:
            raise TraceError(
                self._name(),
                f"no channel {channel!r} for pages of {page_tokens} tokens; it generates {', '.join(self.channels)} "
                f"for pages of {self.page_tokens}",
            )
        if not (0 <= step < self.num_steps and 0 <= layer < self.num_layers):
            raise TraceError(
                self._name(), f"no step {step}, layer {layer}: it has {self.num_steps} steps, {self.num_layers} layers"
            )
        return self._at(step)[channel][:, layer]

    def mass(self, step: int, layer: int, page_tokens: int) -> Scores:
        """Return the attention mass of each page, ``[num_sequences, num_pages]``, in f16."""
        return self.scores(step, layer, MASS, page_tokens)

    def selection(self, step: int, layer: int, page_tokens: int) -> BoolArray | None:  # noqa: ARG002
        """Return None: nothing attended to what is generated."""
        return None

    def _name(self) -> str:
        return f"accesses generated from {self.parameters.fitted_to or 'stated parameters'}"

    def _check(self) -> None:
        if self.page_tokens != self.parameters.page_tokens:
            raise TraceError(
                self._name(),
                f"the parameters are for pages of {self.parameters.page_tokens} tokens, not {self.page_tokens}; "
                "fit the trace at that page size",
            )
        shortest = RECENT_TOKENS + 2 * self.page_tokens
        if self._context_tokens < shortest:
            raise TraceError(
                self._name(), f"a context of {self._context_tokens} tokens leaves no middle; at least {shortest}"
            )
        if min(self.num_steps, self.num_layers, self.num_sequences) < 1 or not 0 <= self.middle_growth <= 1:
            raise TraceError(
                self._name(), "steps, layers and sequences must be at least 1, middle_growth between 0 and 1"
            )

    def _at(self, step: int) -> dict[str, NDArray[np.float16]]:
        if step in self._cached:
            return self._cached[step]
        if step < self._next_step:
            self._process = Process(self._columns, self.num_sequences, self.seed)
            self._next_step = 0
        while self._next_step <= step:
            context = self._context_tokens + self._next_step
            num_pages = pages_of(context, self.page_tokens)
            self._process.advance(num_pages, num_pages - recent_pages(self.page_tokens))
            self._next_step += 1
        while len(self._cached) >= self._max_cached:
            del self._cached[next(iter(self._cached))]
        self._cached[step] = self._scores_now(context)
        return self._cached[step]

    def _steps_to_keep(self) -> int:
        pages = pages_of(self._context_tokens + self.num_steps, self.page_tokens)
        step_bytes = 2 * len(self.channels) * self.num_sequences * self.num_layers * pages
        return self.num_steps if self.num_steps * step_bytes <= _CACHED_BYTES else min(_CACHED_STEPS, self.num_steps)

    def _scores_now(self, context_tokens: int) -> dict[str, NDArray[np.float16]]:
        doublings = max(0.0, log2(context_tokens / self.parameters.context_tokens))
        recent_left_frac = (1 - self.middle_growth) ** doublings
        shares = shares_at(self._columns, context_tokens, self.page_tokens, recent_left_frac)
        mass, logs = masses(self._process.log_weights(), shares, recent_pages(self.page_tokens))
        channels = {MASS: mass.astype(np.float16)}
        if self.parameters.channel:
            channels[self.parameters.channel] = estimates(logs, self._process.noise(), self._columns).astype(np.float16)
        for rows in channels.values():
            rows.flags.writeable = False
        return channels


def _make(arguments: dict[str, Any]) -> SyntheticSource:
    return SyntheticSource(**arguments)
