"""Generations on pages: dense attention over a prompt fills them, and each step after attends to them, turn by turn."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from kvsim.engine.links.base import Link
from kvsim.engine.links.page_pool import PagePool
from kvsim.engine.model.families import Rotary
from kvsim.engine.model.held import held_by
from kvsim.engine.model.layers import state_layers, unpaged_layers
from kvsim.engine.model.sdpa import cudnn_left_out
from kvsim.engine.paged.attachment import attach, detach
from kvsim.engine.paged.continuation import Continuation
from kvsim.engine.paged.copying import copy_whole
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.engine.paged.padding import Padding
from kvsim.engine.paged.paged_run import Observer, PagedRun
from kvsim.engine.paged.prefill import Snapshot
from kvsim.engine.paged.speculation import listen
from kvsim.engine.paged.split_run import SplitRun, make_run
from kvsim.engine.paged.visible import Visible, visible_tokens
from kvsim.errors import CapacityError, KvsimError
from kvsim.policies.base import Policy, Setting
from kvsim.types import BoolArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a session did in the steps that have ended, of all turns."""

    num_steps: int
    counts: Counter[str]
    """Columns of `kvsim.engine.paged.tally`, summed over steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    """What a session knows at the end of a step: replaced as a whole, so that no other thread sees a part of it."""

    earlier_steps: int = 0
    earlier: Counter[str] = field(default_factory=Counter)
    """Counts of the turns before."""
    run: PagedRun | SplitRun | None = None
    """That of this turn, once a step of it has ended."""
    run_steps: int = 0
    num_unread: tuple[int, ...] = ()
    """Slots of each device whose page was prefetched and not read yet."""

    @property
    def num_steps(self) -> int:
        """Steps that have ended, of all turns."""
        return self.earlier_steps + self.run_steps

    def after_step(self, run: PagedRun | SplitRun) -> _Finished:
        """Return the same after one step more of `run`."""
        return dataclasses.replace(self, run=run, run_steps=self.run_steps + 1, num_unread=run.num_unread)

    def counts(self) -> Counter[str]:
        """Return the counts of all turns."""
        if self.run is None:
            return self.earlier
        columns = self.run.counts(self.run_steps, self.num_unread)
        return self.earlier + Counter({name: int(column.sum()) for name, column in columns.items()})


class Session:
    """Keeps the keys and values of a batch, and answers for its cache where attention is asked.

    A forward pass of one token after the prompt is a decode step; everything before it is prompt. Several tokens after
    decode steps are the prompt of a later turn: a turn ends its run, whose tokens stay, and the next decode step begins
    another with a fresh policy. While the session is open the model computes other caches densely. Sessions of one
    model may be in use in as many threads, each in one at a time; `counts` and `close` may be called from any.
    """

    def __init__(
        self,
        model: Any,
        run_input: DecodeInput,
        *,
        max_tokens: int,
        make_link: Callable[[PagePool], Link],
        make_policy: Callable[[Setting], Policy],
        continuation: Continuation,
    ) -> None:
        self.run_input = run_input
        self.observer: Observer | None = None
        self.prompt_tokens = 0
        """Tokens computed densely, of all turns."""
        self.is_closed = False
        self.continuation = continuation
        self._visible_tokens: BoolArray | None = None
        self._ended = continuation.ended.copy()  # in the run
        self._unread: BoolArray = np.zeros((run_input.setting.grid.num_sequences, max_tokens), dtype=np.bool_)
        self._finished = _Finished()
        self._stepping: int | None = None  # the thread of a decode step that has begun and not ended
        self._has_states = bool(state_layers(model.config))
        self._moves_on = bool(unpaged_layers(model.config))  # layers that cannot take a pass in twice
        self._is_midway = False  # a pass has begun and not ended
        self._max_tokens = max_tokens
        self._make_link = make_link
        self._make_policy = make_policy
        self.model = model
        self._tokens: torch.Tensor | None = None  # [num_sequences, num_layers, room, 2, num_kv_heads, head_dim]
        self._held = held_by(model.config)
        self._key: torch.Tensor | None = None
        self._expected: set[tuple[int, int]] = set()  # threads and layers whose attention comes next
        self._run: PagedRun | SplitRun | None = None
        self._held_tokens = 0  # before the run
        self._padding: Padding | None = None  # of those; the run's pages have none
        self._heard: dict[int, tuple[torch.Tensor, Rotary | None]] = {}  # by thread: others compute on the model, too
        self._handles = listen(model, self._hear) if run_input.predicts else []
        attach(model, self)

    @property
    def context_tokens(self) -> int:
        """Tokens each sequence holds, those of the forward pass under way not counted."""
        return self._held_tokens if self._run is None else self._run.context_tokens

    @property
    def num_steps(self) -> int:
        """Decode steps that have ended."""
        return self._finished.num_steps

    def owns(self, key: torch.Tensor, layer: int) -> bool:
        """Whether attention of `layer` is about what `update` returned last.

        Keys that the model makes of a latent are others than those that it was handed: then this thread's next
        attention of the layer is meant.
        """
        if self._held.latent_numbers is None:
            return key is self._key
        expected = threading.get_ident(), layer
        is_next = expected in self._expected
        self._expected.discard(expected)
        return is_next

    def check_pass(self, new_tokens: int) -> None:
        """Refuse a pass that cannot be, before any layer has taken its tokens in.

        Raises
        ------
        KvsimError
            If the session is closed, a pass before was cut short, or there is no room for as many tokens.
        """
        self._check_open()
        self._check_not_midway()
        self._check_room(new_tokens)

    def _check_room(self, new_tokens: int) -> None:
        end = self.context_tokens + new_tokens
        if end <= self._max_tokens:
            return
        if new_tokens == 1:
            raise CapacityError(f"this PagedCache is full: max_tokens={self._max_tokens}")
        raise CapacityError(
            f"{end} tokens with this prompt; this PagedCache has room for max_tokens={self._max_tokens}"
        )

    @torch.no_grad()
    def update(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep a layer's new tokens; return all keys and values while in the prompt, and just the new ones after."""
        self._check_open()
        if layer == 0:
            self._check_not_midway()
            self._is_midway = True
        num_sequences = self.run_input.setting.grid.num_sequences
        if key.shape[0] != num_sequences:
            raise KvsimError(
                f"this PagedCache is for a batch of {num_sequences}, the prompts are {key.shape[0]}; make it with "
                "batch= as many (num_return_sequences multiplies them; beam search is not supported)"
            )
        if key.shape[2] > 1 or self.context_tokens == 0:
            self._end_turn()
            key, value = self._fill(layer, key, value)
        else:
            if layer == 0:
                if (self._ended & ~self.continuation.ended).any():  # a turn of one token, for one that had ended
                    self._end_turn()
                self._begin()
            assert self._run is not None
            self._run.update(layer, key, value)
        self._key = key
        if self._held.latent_numbers is not None:
            self._expected.add((threading.get_ident(), layer))
        return key, value

    @torch.no_grad()
    def attend(self, layer: int, query: torch.Tensor) -> torch.Tensor | None:
        """Return a decode step's attention, ``[num_sequences, 1, num_heads, head_dim]``; None while in the prompt."""
        is_last = layer == self.run_input.setting.grid.num_layers - 1
        if self._run is None:
            if is_last:  # not before: a model may have one layer with pages, whose pass is checked in its attention
                self._held_tokens += query.shape[2]
                self.prompt_tokens += query.shape[2]
                self._is_midway = False
            return None
        self._check_open()
        if layer == 0:
            tokens, page_tokens = self._visible_tokens, self.run_input.page_tokens
            if self._padding is not None:
                tokens = self._padding.seen_of(tokens)
            self._run.show(None if tokens is None else Visible(tokens, page_tokens))
        heard = self._heard.pop(threading.get_ident(), None)
        if heard is not None and self._run.speculation is not None:
            self._run.speculation.hear(*heard)
        with cudnn_left_out():
            output = self._run.attend(layer, query)
        if is_last:
            self._run.end()
            self._finished = self._finished.after_step(self._run)
            self._stepping, self._is_midway = None, False
        return output

    @torch.no_grad()
    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        """Return a session with memory, policy and link of its own that goes on from the same tokens.

        Raises
        ------
        KvsimError
            If it is closed, or in the middle of a step.
        """
        if self.is_closed or self._stepping is not None:
            why = "it is closed" if self.is_closed else "a decode step of it is under way, or was cut short"
            raise KvsimError(f"this PagedCache cannot be copied: {why}")
        self._check_not_midway()
        memo[id(self.model)] = self.model
        with torch.inference_mode(False):
            run_input = copy_whole(self.run_input, memo)
            options: dict[str, Any] = {"make_link": self._make_link, "make_policy": self._make_policy}
            continuation = self.continuation.copied()
            copied = Session(self.model, run_input, max_tokens=self._max_tokens, continuation=continuation, **options)
            copied._unread[:], copied._ended[:] = self._unread, self._ended
            copied.prompt_tokens, copied._held_tokens = self.prompt_tokens, self._held_tokens
            copied._padding, copied._visible_tokens = self._padding, self._visible_tokens
            copied.observer = copy.deepcopy(self.observer, memo)
            if self._run is not None:
                copied._take_over(self._run.copied(run_input, self._make_link, memo))
            elif self._tokens is not None:
                copied._tokens = torch.empty_like(self._tokens, pin_memory=self._tokens.is_pinned())
                copied._tokens.copy_(self._tokens)
            copied._finished = dataclasses.replace(self._finished, run=copied._run)
        return copied

    def see(self, mask: torch.Tensor | None, new_tokens: int) -> None:
        """Take in which tokens the pass under way may read, by its attention mask.

        Raises
        ------
        KvsimError
            If it shows a sequence what was computed after its end.
        """
        tokens, ended = visible_tokens(mask, self.run_input.setting.grid.num_sequences), self.continuation.ended
        end = self.context_tokens + new_tokens
        if ended.any():
            self._unread[ended, self.context_tokens : end] = True
            tokens = np.ones((ended.size, end), dtype=np.bool_) if tokens is None else tokens.copy()
            tokens[ended] = False
        is_read = self._unread[:, :end] if tokens is None else self._unread[:, :end] & tokens
        if is_read.any():
            sequence, token = np.argwhere(is_read)[0].tolist()
            raise KvsimError(
                f"sequence {sequence} ended before token {token}, and its padding was not computed: give an "
                "attention_mask that hides it from the next turn"
            )
        self._visible_tokens = tokens
        self._ended[:] = ended

    def counts(self) -> Counts:
        """Return the counts of the steps that have ended, of all turns.

        Other threads may call it while one decodes.

        Raises
        ------
        KvsimError
            If a step of the calling thread was cut short by an error.
        """
        finished = self._finished
        if self._stepping == threading.get_ident():
            raise KvsimError("a decode step was cut short; its cache has no counts to report")
        return Counts(num_steps=finished.num_steps, counts=finished.counts())

    def close(self) -> None:
        """Give the model back as it was and end the link; a second call does nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        detach(self.model, self)
        for handle in self._handles:
            handle.remove()
        if self._run is not None:
            self._run.link.close()
        self._tokens = self._key = None
        self._heard.clear()

    def _check_open(self) -> None:
        if self.is_closed:
            raise KvsimError("this PagedCache is closed; make another for the next generation")

    def _check_not_midway(self) -> None:
        if self._is_midway and self._moves_on:
            raise KvsimError(
                "a pass of this PagedCache was cut short, and layers that hold a window or a state took its tokens in; "
                "make another"
            )

    def _hear(self, hidden: torch.Tensor, rotary: Rotary | None) -> None:
        """Keep what enters a layer of a decode step: it is the session's if this thread attends to the session next."""
        if hidden.shape[1] == 1:
            self._heard[threading.get_ident()] = hidden, rotary

    def _end_turn(self) -> None:
        """End the run, if there is one: its tokens are in host memory then, as a prompt's are."""
        if self._run is None:
            return
        if self.run_input.drops:
            raise KvsimError(
                "the policy of this PagedCache drops pages for good, and a later turn would read them: make another "
                "cache for the whole text"
            )
        if self._has_states and self._ended.any():
            sequence = int(np.flatnonzero(self._ended)[0])
            raise KvsimError(
                f"sequence {sequence} ended before others, and layers that hold a state took its padding in: make "
                "another PagedCache for the next turn, or leave end_token_ids out"
            )
        done = self.counts()
        self._finished = _Finished(earlier_steps=done.num_steps, earlier=done.counts)
        self._run.link.close()
        self._run.flush()
        self._held_tokens, self._tokens = self._run.context_tokens, self._run.host_tokens
        if self._padding is not None:
            self._padding.put_back(self._tokens, self._run.sequence_tokens)
            self._padding = None
        for sequence in np.flatnonzero(self._ended).tolist():  # places that were never written, and may hold NaN
            self._tokens[sequence, :, torch.from_numpy(np.flatnonzero(self._unread[sequence]))] = 0
        self._ended[:] = False
        self._run = None
        self.run_input = self.run_input.afresh(self._make_policy)

    def _fill(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep a layer's part of the prompt on the host."""
        grid, planes = self.run_input.setting.grid, self._held.planes(key, value)
        start, end = self._held_tokens, self._held_tokens + key.shape[2]
        self._check_room(key.shape[2])
        if self._tokens is None:
            room = grid.pages_per_layer * self.run_input.page_tokens
            shape = (grid.num_sequences, grid.num_layers, room, *planes.shape[2:])
            with torch.inference_mode(False):
                self._tokens = torch.zeros(shape, dtype=key.dtype, pin_memory=key.is_cuda)
        self._tokens[:, layer, start:end] = planes
        if start == 0:
            return key, value
        return self._held.parts(self._tokens[:, layer, :end].to(key.device))

    def _take_over(self, run: PagedRun | SplitRun) -> None:
        """Go on with a run, whose pool has the tokens from now on."""
        self._run = run
        self._tokens = run.host_tokens if isinstance(run, PagedRun) else None

    def _begin(self) -> None:
        self._check_room(1)
        if self._run is None:
            assert self._tokens is not None
            # Ordinary tensors, whatever mode the caller is in: the next step may come in another.
            with torch.inference_mode(False):
                seen = self._visible_tokens
                if seen is not None and seen.any(axis=1).all():  # a turn of one token has shown no mask of its own yet
                    self._padding = Padding(seen)
                    self._padding.take_out(self._tokens)
                snapshot = Snapshot(
                    tokens=self._tokens,
                    prompt_tokens=self._held_tokens,
                    next_token=torch.empty((0, 1)),
                    unequal_tokens=None if self._padding is None else self._padding.sequence_tokens,
                )
                run = make_run(self.model, self.run_input, snapshot, self._make_link)
            run.observer = self.observer
            self._take_over(run)
        self._stepping = threading.get_ident()
        assert self._run is not None
        if self.continuation.ended.any():  # the pass's mask, which hides them, is shown after its first layer's tokens
            self._run.end_sequences(self.continuation.ended)
        self._run.begin(self._finished.run_steps)
