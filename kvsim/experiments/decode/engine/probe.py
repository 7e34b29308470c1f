"""Tries a length of context for real: random keys and values instead of a prefill, two decode steps, what they took."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import torch

from kvsim.calibration.random_inputs import random_snapshot, random_tokens
from kvsim.engine.links.cuda import mechanism_named
from kvsim.engine.model.families import context_limit_of
from kvsim.engine.model.loading import TORCH_DTYPES
from kvsim.engine.paged.baselines import decode_on, offloaded_cache
from kvsim.engine.paged.decode import decode
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.engine.paged.prefill import Snapshot
from kvsim.engine.paged.summaries import QuestSummaries, make_summaries
from kvsim.scenario.shapes import ModelShape
from kvsim.types import PageGrid

NUM_STEPS = 2
"""The second reads what the first wrote."""

_UNPACED_BYTES_PER_S = 1e12  # the emulated link copies as fast as it can: nothing is timed
_OUT_OF_MEMORY = ("out of memory", "alloc_failed", "can't allocate memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a run takes by the engine's own sizes: nothing of it is measured."""

    weights_bytes: int
    slots_bytes: int
    """Of the budget and one slot more a sequence; of all pages where prefill leaves all of them on the device."""
    summary_bytes: int
    working_bytes: int
    """At most: the pages that one layer reads, gathered, or one layer's keys and values while they are summed up, with
    a second copy of the summaries; and what lives between layers."""
    host_bytes: int
    """The host pages of all sequences; 0 where the policy needs none."""
    scaffold_bytes: int
    """Host memory that only the trial takes: one layer of random keys and values, where the policy needs no more."""

    @property
    def device_bytes(self) -> int:
        """All that lies on the device."""
        return self.weights_bytes + self.slots_bytes + self.summary_bytes + self.working_bytes

    @property
    def pinned_bytes(self) -> int:
        """What a GPU's trial takes of the host: torch pins memory in powers of two."""
        taken = self.host_bytes + self.scaffold_bytes
        return 1 << (taken - 1).bit_length() if taken else 0


def need_of(run_input: DecodeInput, shape: ModelShape, *, weights_bytes: int, keeps_host_pages: bool) -> Need:
    """Return what decoding by `run_input` takes."""
    grid, page_bytes = run_input.setting.grid, shape.page_bytes(run_input.page_tokens)
    device_pages = grid.num_pages if run_input.drops else run_input.setting.capacity_pages
    of_a_layer = grid.num_sequences * grid.pages_per_layer * page_bytes
    read_pages = grid.pages_per_layer
    if run_input.selector is not None and run_input.policy.attends == "selection":
        read_pages = run_input.selector.max_pages(read_pages)
    summary_bytes = _summary_bytes(run_input, shape) if run_input.scores_pages else 0
    start_bytes = of_a_layer + summary_bytes if run_input.scores_pages else 0
    return Need(
        weights_bytes=weights_bytes,
        slots_bytes=(device_pages + grid.num_sequences) * page_bytes,
        summary_bytes=summary_bytes,
        working_bytes=max(start_bytes, grid.num_sequences * read_pages * page_bytes)
        + shape.activation_bytes(grid.num_sequences, grid.num_sequences),
        host_bytes=grid.num_pages * page_bytes if keeps_host_pages else 0,
        scaffold_bytes=0 if keeps_host_pages else grid.pages_per_layer * page_bytes,
    )


def _summary_bytes(run_input: DecodeInput, shape: ModelShape) -> int:
    """Return the device bytes of the page summaries, from those of one page and of two: they grow by the page."""
    one, two = (_bytes_of_summaries(run_input, shape, num_pages) for num_pages in (1, 2))
    return one + (run_input.setting.grid.pages_per_layer - 1) * (two - one)


def _bytes_of_summaries(run_input: DecodeInput, shape: ModelShape, num_pages: int) -> int:
    whole = run_input.setting.grid
    grid = PageGrid(num_sequences=whole.num_sequences, num_layers=whole.num_layers, pages_per_layer=num_pages)
    tokens = torch.zeros(
        (
            whole.num_sequences,
            whole.num_layers,
            num_pages * run_input.page_tokens,
            2,
            shape.num_kv_heads,
            shape.head_dim,
        ),
        dtype=TORCH_DTYPES[shape.dtype],
    )
    snapshot = Snapshot(tokens=tokens, prompt_tokens=num_pages * run_input.page_tokens, next_token=torch.empty((0, 1)))

    def keys() -> Any:
        return snapshot.layer_keys("cpu")

    made: list[Any] = [make_summaries(run_input.channel, grid, keys(), page_tokens=run_input.page_tokens, device="cpu")]
    if run_input.predicts and not isinstance(made[0], QuestSummaries):
        made.append(QuestSummaries(grid, keys(), page_tokens=run_input.page_tokens, device="cpu"))
    return sum(held.nbytes for one in made for held in vars(one).values() if isinstance(held, torch.Tensor))


class ContextProbe:
    """A model that decodes over random contexts of any length, on one device.

    Random keys and values stand in for those of a prompt, made once and used again as long as they suffice. Where the
    policy needs no host pages one layer of them stands in for all, so that the trial takes little host memory.
    """

    def __init__(self, model: Any, shape: ModelShape, *, mechanism: str) -> None:
        self._model = model
        self._shape = shape
        self._device = str(model.device.type)
        self._mechanism = mechanism_named(mechanism)
        self._tokens: torch.Tensor | None = None  # [tokens of all layers, 2, num_kv_heads, head_dim]

    @property
    def positions(self) -> int | None:
        """Tokens that the model was made to read; None where its configuration does not say."""
        return context_limit_of(self._model)

    def limit_device(self, limit_bytes: int) -> None:
        """Let torch take no more of a GPU than `limit_bytes` from now on, so that it runs out of memory there."""
        if self._device == "cuda":
            total_bytes = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total_bytes))

    def fits(
        self, run_input: DecodeInput, *, context_tokens: int, keeps_host_pages: bool, is_peer: bool = False
    ) -> bool:
        """Return whether decoding to `context_tokens` works; False where the device had too little memory.

        `run_input` is used up. Nothing of a failed trial stays on the device.
        """
        try:
            self._try(run_input, context_tokens, keeps_host_pages=keeps_host_pages, is_peer=is_peer)
        except (RuntimeError, MemoryError) as problem:  # torch.OutOfMemoryError is a RuntimeError
            if not _is_out_of_memory(problem):
                raise
        else:
            return True
        self._tidy()  # behind the handler: the error held the frames, and those what they had made
        return False

    def peak_bytes(self) -> int | None:
        """Return the most that a GPU held at once in the last trial; None on a CPU."""
        return int(torch.cuda.max_memory_allocated()) if self._device == "cuda" else None

    def release(self) -> None:
        """Give the random contexts and the limit back."""
        self._drop_tokens()
        if self._device == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
        self._tidy()

    def _try(self, run_input: DecodeInput, context_tokens: int, *, keeps_host_pages: bool, is_peer: bool) -> None:
        if self._device == "cuda":
            self._tidy()
            torch.cuda.reset_peak_memory_stats()
        snapshot = self._snapshot(run_input, context_tokens - NUM_STEPS, keeps_host_pages=keeps_host_pages)
        forced = torch.ones((snapshot.num_sequences, NUM_STEPS), dtype=torch.int64)
        if is_peer:
            decode_on(
                offloaded_cache, self._model, snapshot, forced, page_tokens=run_input.page_tokens, counts_copies=False
            )
            return
        decode(
            self._model,
            snapshot,
            run_input,
            bandwidth_bytes_per_s=_UNPACED_BYTES_PER_S,
            forced_tokens=forced,
            mechanism=self._mechanism,
        )

    def _snapshot(self, run_input: DecodeInput, prompt_tokens: int, *, keeps_host_pages: bool) -> Snapshot:
        grid = run_input.setting.grid
        room = grid.pages_per_layer * run_input.page_tokens
        rows = grid.num_layers * grid.num_sequences if keeps_host_pages else 1
        if self._tokens is None or len(self._tokens) < rows * room:
            self._drop_tokens()  # before the next are made: both may not fit
            self._tokens = random_tokens(self._shape, rows, room, device=self._device)
        tokens = self._tokens[: rows * room]
        if keeps_host_pages:
            return random_snapshot(
                tokens, num_layers=grid.num_layers, num_sequences=grid.num_sequences, prompt_tokens=prompt_tokens
            )
        shared = tokens.view(1, 1, *tokens.shape).expand(grid.num_sequences, grid.num_layers, *tokens.shape)
        nothing = torch.zeros((grid.num_sequences, 1), dtype=torch.int64)
        return Snapshot(tokens=shared, prompt_tokens=prompt_tokens, next_token=nothing)

    def _drop_tokens(self) -> None:
        self._tokens = None
        if self._device == "cuda":  # torch keeps pinned memory for the next that wants as much
            empty = getattr(torch.accelerator, "empty_host_cache", None) or torch._C._host_emptyCache
            empty()

    def _tidy(self) -> None:
        gc.collect()
        if self._device == "cuda":
            torch.cuda.empty_cache()


def _is_out_of_memory(problem: BaseException) -> bool:
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(problem).lower() for words in _OUT_OF_MEMORY)
