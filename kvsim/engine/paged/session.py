"""One generation on pages: dense attention over the prompt fills them, and each step after attends to them."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from kvsim.engine.links.base import Link
from kvsim.engine.links.page_pool import PagePool
from kvsim.engine.model.dense import dense_attention
from kvsim.engine.model.families import Rotary, attention_modules
from kvsim.engine.model.held import held_by
from kvsim.engine.model.sdpa import cudnn_left_out
from kvsim.engine.paged.copying import copy_whole
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.engine.paged.paged_run import Observer, PagedRun
from kvsim.engine.paged.prefill import Snapshot
from kvsim.engine.paged.speculation import listen
from kvsim.engine.paged.split_run import Links, SplitRun, make_run
from kvsim.errors import CapacityError, KvsimError
from kvsim.types import IntArray

NAME = "kvsim-generate"
"""What the registered attention is called. Its masks are SDPA's, so that a prompt may come in chunks."""

_ATTRIBUTE = "kvsim_sessions"

_ATTACHING = threading.RLock()
"""Held while a session opens or closes. Re-entrant: what is allocated meanwhile may have the garbage collector close
another session in the same thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    """What a session knows at the end of a step: replaced as a whole, so that no other thread sees a part of it."""

    num_steps: int = 0
    num_unread: tuple[int, ...] = ()
    """Slots of each device whose page was prefetched and not read yet."""


class Session:
    """Keeps the keys and values of a batch, and answers for its cache where attention is asked.

    A forward pass of one token after the prompt is a decode step; everything before it is prompt. While the session is
    open the model computes other caches densely. Sessions of one model may be in use in as many threads, each in one at
    a time; `counts` and `close` may be called from any.
    """

    def __init__(
        self, model: Any, given: DecodeInput, *, max_tokens: int, make_link: Callable[[PagePool], Link]
    ) -> None:
        self.given = given
        self.observer: Observer | None = None
        self.prompt_tokens = 0
        self.is_closed = False
        self.padding_tokens: IntArray | None = None
        self._finished = _Finished()
        self._stepping: int | None = None  # the thread of a decode step that has begun and not ended
        self._max_tokens = max_tokens
        self._make_link = make_link
        self.model = model
        self._tokens: torch.Tensor | None = None  # [num_sequences, num_layers, room, 2, num_kv_heads, head_dim]
        self._held = held_by(model.config)
        self._key: torch.Tensor | None = None
        self._expected: set[tuple[int, int]] = set()  # threads and layers whose attention comes next
        self._run: PagedRun | SplitRun | None = None
        self._link: Link | Links | None = None
        self._heard: dict[int, tuple[torch.Tensor, Rotary | None]] = {}  # by thread: others compute on the model, too
        self._handles = listen(model, self._hear) if given.predicts else []
        _attach(model, self)

    @property
    def context_tokens(self) -> int:
        """Tokens each sequence holds, those of the forward pass under way not counted."""
        return self.prompt_tokens if self._run is None else self._run.context_tokens

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

    @torch.no_grad()
    def update(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep a layer's new tokens; return all keys and values while in the prompt, and just the new ones after."""
        self._check_open()
        new_tokens = key.shape[2]
        if self._run is None and (new_tokens > 1 or self.prompt_tokens == 0):
            key, value = self._fill(layer, key, value)
        else:
            if new_tokens > 1:
                raise KvsimError(
                    f"{new_tokens} tokens at once after the first decode step; a PagedCache reads one prompt: "
                    "make another for the next, or copy.deepcopy one that has read what they share"
                )
            if layer == 0:
                self._begin()
            assert self._run is not None
            self._run.append(layer, key, value)
        self._key = key
        if self._held.latent_numbers is not None:
            self._expected.add((threading.get_ident(), layer))
        return key, value

    @torch.no_grad()
    def attend(self, layer: int, query: torch.Tensor) -> torch.Tensor | None:
        """Return a decode step's attention, ``[num_sequences, 1, num_heads, head_dim]``; None while in the prompt."""
        if self._run is None:
            return None
        self._check_open()
        self._run.padding_tokens = self.padding_tokens
        heard = self._heard.pop(threading.get_ident(), None)
        if heard is not None and self._run.speculation is not None:
            self._run.speculation.hear(*heard)
        with cudnn_left_out():
            output = self._run.attend(layer, query)
        if layer == self.given.setting.grid.num_layers - 1:
            self._run.end()
            self._finished = _Finished(num_steps=self.num_steps + 1, num_unread=self._run.num_unread)
            self._stepping = None
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
        memo[id(self.model)] = self.model
        with torch.inference_mode(False):
            given = copy_whole(self.given, memo)
            copied = Session(self.model, given, max_tokens=self._max_tokens, make_link=self._make_link)
            copied.prompt_tokens, copied._finished = self.prompt_tokens, self._finished
            copied.observer = copy.deepcopy(self.observer, memo)
            if self._run is not None:
                copied._take_over(self._run.copied(given, self._make_link, memo))
            elif self._tokens is not None:
                copied._tokens = torch.empty_like(self._tokens, pin_memory=self._tokens.is_pinned())
                copied._tokens.copy_(self._tokens)
        return copied

    def counts(self) -> dict[str, IntArray] | None:
        """Return the counts of each step that has ended (`kvsim.engine.paged.tally`); None before the first.

        Other threads may call it while one decodes.

        Raises
        ------
        KvsimError
            If a step of the calling thread was cut short by an error.
        """
        finished, run = self._finished, self._run
        if self._stepping == threading.get_ident():
            raise KvsimError("a decode step was cut short; its cache has no counts to report")
        if run is None or not finished.num_steps:
            return None
        return run.counts(finished.num_steps, finished.num_unread)

    def close(self) -> None:
        """Give the model back as it was and end the link; a second call does nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        _detach(self.model, self)
        for handle in self._handles:
            handle.remove()
        if self._link is not None:
            self._link.close()
        self._tokens = self._key = None
        self._heard.clear()

    def _check_open(self) -> None:
        if self.is_closed:
            raise KvsimError("this PagedCache is closed; make another for the next generation")

    def _hear(self, hidden: torch.Tensor, rotary: Rotary | None) -> None:
        """Keep what enters a layer of a decode step: it is the session's if this thread attends to the session next."""
        if hidden.shape[1] == 1:
            self._heard[threading.get_ident()] = hidden, rotary

    def _fill(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep a layer's part of the prompt on the host."""
        grid, planes = self.given.setting.grid, self._held.planes(key, value)
        start, end = self.prompt_tokens, self.prompt_tokens + key.shape[2]
        if key.shape[0] != grid.num_sequences:
            raise KvsimError(
                f"this PagedCache is for a batch of {grid.num_sequences}, the prompts are {key.shape[0]}; make it with "
                "batch= as many (num_return_sequences multiplies them; beam search is not supported)"
            )
        if end > self._max_tokens:
            raise CapacityError(f"a prompt of {end} tokens; this PagedCache has room for max_tokens={self._max_tokens}")
        if self._tokens is None:
            room = grid.pages_per_layer * self.given.page_tokens
            shape = (grid.num_sequences, grid.num_layers, room, *planes.shape[2:])
            with torch.inference_mode(False):
                self._tokens = torch.zeros(shape, dtype=key.dtype, pin_memory=key.is_cuda)
        self._tokens[:, layer, start:end] = planes
        if layer == grid.num_layers - 1:
            self.prompt_tokens = end
        if start == 0:
            return key, value
        return self._held.parts(self._tokens[:, layer, :end].to(key.device))

    def _take_over(self, run: PagedRun | SplitRun) -> None:
        """Go on with a run, whose pool has the tokens from now on."""
        self._run, self._link = run, run.link
        self._tokens = run.host_tokens if isinstance(run, PagedRun) else None

    def _begin(self) -> None:
        if self.context_tokens >= self._max_tokens:
            raise CapacityError(f"this PagedCache is full: max_tokens={self._max_tokens}")
        if self._run is None:
            assert self._tokens is not None
            # Ordinary tensors, whatever mode the caller is in: the next step may come in another.
            with torch.inference_mode(False):
                snapshot = Snapshot(
                    tokens=self._tokens, prompt_tokens=self.prompt_tokens, next_token=torch.empty((0, 1))
                )
                run = make_run(self.model, self.given, snapshot, self._make_link)
            run.observer = self.observer
            self._take_over(run)
        self._stepping = threading.get_ident()
        assert self._run is not None
        self._run.begin(self.num_steps)


@dataclass(slots=True, eq=False)
class _Sessions:
    """The open sessions of a model, and the attention it had before the first."""

    before: str
    places: dict[torch.nn.Module, int]
    """Attention of each layer with pages, and its place among them."""
    open: dict[int, Session] = field(default_factory=dict)
    """By id. `list` takes its values in one go, whatever other threads do."""


def _attach(model: Any, session: Session) -> None:
    with _ATTACHING:
        while (sessions := getattr(model, _ATTRIBUTE, None)) is None or id(session) not in sessions.open:
            if sessions is None:
                sessions = _installed(model)
            sessions.open[id(session)] = session  # the last of the others may have closed just before: then once more


def _installed(model: Any) -> _Sessions:
    """Give a model the attention that asks sessions, and return its sessions: none yet."""
    places = {module: place for place, module in enumerate(attention_modules(model))}
    sessions = _Sessions(before=model.config._attn_implementation, places=places)
    model.set_attn_implementation(NAME)
    for module in (model, *places):
        setattr(module, _ATTRIBUTE, sessions)
    return sessions


def _detach(model: Any, session: Session) -> None:
    with _ATTACHING:
        sessions: _Sessions = getattr(model, _ATTRIBUTE)
        del sessions.open[id(session)]
        if sessions.open or getattr(model, _ATTRIBUTE, None) is not sessions:
            return
        for module in (model, *sessions.places):
            delattr(module, _ATTRIBUTE)
        if model.config._attn_implementation == NAME:
            model.set_attn_implementation(sessions.before)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend to pages in a decode step of a session, and as the model does everywhere else."""
    sessions: _Sessions | None = getattr(module, _ATTRIBUTE, None)
    layer = sessions.places.get(module) if sessions is not None else None
    session = None
    if sessions is not None and layer is not None:
        session = next((one for one in list(sessions.open.values()) if one.owns(key, layer)), None)
    if session is not None and layer is not None:
        if layer == 0:
            _check_call(attention_mask, query.shape[2], session, **others)
        output = session.attend(layer, query)
        if output is not None:
            return output, None
    return dense_attention(module, query, key, value, attention_mask, scaling=scaling, **others)


def _check_call(
    mask: torch.Tensor | None,
    new_tokens: int,
    session: Session,
    *,
    use_cache: bool = True,
    position_ids: torch.Tensor | None = None,
    **others: Any,
) -> None:
    """Refuse a forward pass that does not go on from what the session holds."""
    del others
    is_again = new_tokens > 1 and position_ids is not None and int(position_ids.flatten()[0]) < session.context_tokens
    if not use_cache or is_again:
        raise KvsimError("the whole text is computed again, as with use_cache=False: a PagedCache needs use_cache=True")
    session.padding_tokens = None if mask is None else _padding_of(mask, session.given.setting.grid.num_sequences)


def _padding_of(mask: torch.Tensor, num_sequences: int) -> IntArray | None:
    """Return the tokens at the beginning of each sequence that its last query does not see; None where it sees all.

    Raises
    ------
    KvsimError
        If others are hidden.
    """
    seen = mask[..., -1, :].flatten(0, -2) if mask.dtype == torch.bool else None
    if seen is not None and bool(seen.all()):
        return None
    if seen is None or bool((seen[:, 1:] < seen[:, :-1]).any()) or not bool(seen[:, -1].all()):
        raise KvsimError(
            "the attention mask hides tokens behind others that it shows; a PagedCache takes prompts that are padded "
            'on the left (tokenizer.padding_side = "left")'
        )
    padding: IntArray = (~seen).sum(dim=-1).expand(num_sequences).cpu().numpy().astype(np.int64)
    return padding


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
