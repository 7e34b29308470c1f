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
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from kvsim.engine.links.base import Link
from kvsim.engine.links.page_pool import PagePool
from kvsim.engine.model.dense import dense_attention
from kvsim.engine.model.families import Rotary, attention_modules
from kvsim.engine.model.held import held_by
from kvsim.engine.model.sdpa import cudnn_left_out
from kvsim.engine.paged.continuation import PREPARE, Continuation, announcing
from kvsim.engine.paged.copying import copy_whole
from kvsim.engine.paged.decode import make_pool
from kvsim.engine.paged.paged_run import DecodeInput, Observer, PagedRun
from kvsim.engine.paged.prefill import Snapshot
from kvsim.engine.paged.speculation import listen
from kvsim.engine.paged.visible import Visible, ends_before, visible_tokens
from kvsim.errors import CapacityError, KvsimError
from kvsim.policies.base import Policy
from kvsim.types import BoolArray

NAME = "kvsim-generate"
"""What the registered attention is called. Its masks are SDPA's, so that a prompt may come in chunks."""

_ATTRIBUTE = "kvsim_sessions"


class Session:
    """Keeps the keys and values of a batch, and answers for its cache where attention is asked.

    A forward pass of one token after the prompt is a decode step; everything before it is prompt. Several tokens after
    decode steps are the prompt of a later turn: a turn ends its run, whose tokens stay, and the next decode step begins
    another with a fresh policy. While the session is open the model computes other caches densely.
    """

    def __init__(
        self,
        model: Any,
        given: DecodeInput,
        *,
        max_tokens: int,
        make_link: Callable[[PagePool], Link],
        make_policy: Callable[[], Policy],
        continuation: Continuation,
    ) -> None:
        self.given = given
        self.observer: Observer | None = None
        self.prompt_tokens = 0
        """Tokens computed densely, of all turns."""
        self.num_steps = 0
        self.is_closed = False
        self.continuation = continuation
        self._visible_tokens: BoolArray | None = None
        self._ended = continuation.ended.copy()  # in the run
        self._unread: BoolArray = np.zeros((given.setting.grid.num_sequences, max_tokens), dtype=np.bool_)
        self._is_mid_step = False
        self._max_tokens = max_tokens
        self._make_link = make_link
        self._make_policy = make_policy
        self.model = model
        self._tokens: torch.Tensor | None = None  # [num_sequences, num_layers, room, 2, num_kv_heads, head_dim]
        self._held = held_by(model.config)
        self._key: torch.Tensor | None = None
        self._expected: set[tuple[int, int]] = set()  # threads and layers whose attention comes next
        self._run: PagedRun | None = None
        self._held_tokens = 0  # before the run
        self._run_steps = 0
        self._earlier: Counter[str] = Counter()  # counts of the turns before
        self._link: Link | None = None
        self._heard: tuple[torch.Tensor, Rotary | None] | None = None
        self._handles = listen(model, self._hear) if given.predicts else []
        _attach(model, self)

    @property
    def context_tokens(self) -> int:
        """Tokens each sequence holds, those of the forward pass under way not counted."""
        return self._held_tokens if self._run is None else self._run.context_tokens

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
        if self.is_closed:
            raise KvsimError("this PagedCache is closed; make another for the next generation")
        num_sequences = self.given.setting.grid.num_sequences
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
                self._begin(key.device)
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
        if layer == 0:
            tokens, page_tokens = self._visible_tokens, self.given.page_tokens
            self._run.show(None if tokens is None else Visible(tokens, page_tokens))
        with cudnn_left_out():
            output = self._run.attend(layer, query)
        if layer == self.given.setting.grid.num_layers - 1:
            self._run.end()
            self._run_steps += 1
            self.num_steps += 1
            self._is_mid_step = False
        return output

    @torch.no_grad()
    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        """Return a session with memory, policy and link of its own that goes on from the same tokens.

        Raises
        ------
        KvsimError
            If it is closed, or in the middle of a step.
        """
        if self.is_closed or self._is_mid_step:
            why = "it is closed" if self.is_closed else "a decode step of it is under way, or was cut short"
            raise KvsimError(f"this PagedCache cannot be copied: {why}")
        memo[id(self.model)] = self.model
        with torch.inference_mode(False):
            given = copy_whole(self.given, memo)
            options: dict[str, Any] = {"make_link": self._make_link, "make_policy": self._make_policy}
            continuation = self.continuation.copied()
            copied = Session(self.model, given, max_tokens=self._max_tokens, continuation=continuation, **options)
            copied._unread[:], copied._ended[:] = self._unread, self._ended
            for name in ("prompt_tokens", "num_steps", "_held_tokens", "_run_steps"):
                setattr(copied, name, getattr(self, name))
            copied._earlier = self._earlier.copy()
            copied.observer = copy.deepcopy(self.observer, memo)
            if self._run is not None:
                copied._take_over(self._run.copied(given, self._make_link, memo))
            elif self._tokens is not None:
                copied._tokens = torch.empty_like(self._tokens, pin_memory=self._tokens.is_pinned())
                copied._tokens.copy_(self._tokens)
        return copied

    def see(self, mask: torch.Tensor | None, new_tokens: int) -> None:
        """Take in which tokens the pass under way may read, by its attention mask.

        Raises
        ------
        KvsimError
            If it shows a sequence what was computed after its end.
        """
        tokens, ended = visible_tokens(mask, self.given.setting.grid.num_sequences), self.continuation.ended
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

    def counts(self) -> Counter[str]:
        """Return the columns of `kvsim.engine.paged.tally` up to now, summed over steps and turns.

        Raises
        ------
        KvsimError
            If a step was cut short by an error.
        """
        if self._is_mid_step:
            raise KvsimError("a decode step was cut short; its cache has no counts to report")
        if self._run is None or self._link is None:
            return self._earlier
        finished = copy.deepcopy(self._run.tally)
        finished.finish(self._link.drain())
        return self._earlier + Counter({name: int(column.sum()) for name, column in finished.columns.items()})

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
        self._tokens = self._key = self._heard = None

    def _hear(self, hidden: torch.Tensor, rotary: Rotary | None) -> None:
        """Pass on what enters a layer of a decode step; the run is there from its first layer's keys on."""
        if hidden.shape[1] > 1:
            return
        if self._run is None:
            self._heard = hidden, rotary
        elif self._run.speculation is not None:
            self._run.speculation.hear(hidden, rotary)

    def _end_turn(self) -> None:
        """End the run, if there is one: its tokens are in host memory then, as a prompt's are."""
        if self._run is None or self._link is None:
            return
        if self.given.drops:
            raise KvsimError(
                "the policy of this PagedCache drops pages for good, and a later turn would read them: make another "
                "cache for the whole text"
            )
        self._earlier = self.counts()
        self._link.close()
        self._run.flush()
        for sequence in np.flatnonzero(self._ended).tolist():  # places that were never written, and may hold NaN
            self._run.host_tokens[sequence, :, torch.from_numpy(np.flatnonzero(self._unread[sequence]))] = 0
        self._ended[:] = False
        self._held_tokens, self._run_steps = self._run.context_tokens, 0
        self._run = self._link = None
        self.given = dataclasses.replace(self.given, policy=self._make_policy())

    def _fill(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep a layer's part of the prompt on the host."""
        grid, planes = self.given.setting.grid, self._held.planes(key, value)
        start, end = self._held_tokens, self._held_tokens + key.shape[2]
        if end > self._max_tokens:
            raise CapacityError(
                f"{end} tokens with this prompt; this PagedCache has room for max_tokens={self._max_tokens}"
            )
        if self._tokens is None:
            room = grid.pages_per_layer * self.given.page_tokens
            shape = (grid.num_sequences, grid.num_layers, room, *planes.shape[2:])
            with torch.inference_mode(False):
                self._tokens = torch.zeros(shape, dtype=key.dtype, pin_memory=key.is_cuda)
        self._tokens[:, layer, start:end] = planes
        if layer == grid.num_layers - 1:
            self._held_tokens = end
            self.prompt_tokens += end - start
        if start == 0:
            return key, value
        return self._held.parts(self._tokens[:, layer, :end].to(key.device))

    def _take_over(self, run: PagedRun) -> None:
        """Go on with a run, whose pool has the tokens from now on."""
        self._run, self._link, self._tokens = run, run.link, run.host_tokens

    def _begin(self, device: torch.device) -> None:
        if self.context_tokens >= self._max_tokens:
            raise CapacityError(f"this PagedCache is full: max_tokens={self._max_tokens}")
        if self._run is None:
            assert self._tokens is not None
            # Ordinary tensors, whatever mode the caller is in: the next step may come in another.
            with torch.inference_mode(False):
                snapshot = Snapshot(
                    tokens=self._tokens, prompt_tokens=self._held_tokens, next_token=torch.empty((0, 1))
                )
                pool = make_pool(snapshot, self.given, device=device.type)
                run = PagedRun(self.model, self.given, snapshot, pool, self._make_link(pool), None)
            run.observer = self.observer
            if run.speculation is not None and self._heard is not None:
                run.speculation.hear(*self._heard)
            self._take_over(run)
        self._is_mid_step = True
        assert self._run is not None
        self._run.begin(self._run_steps)


@dataclass(slots=True, eq=False)
class _Sessions:
    """The open sessions of a model, and the attention it had before the first."""

    before: str
    prepare: Any
    """The model's own `prepare_inputs_for_generation` where it is not that of its class."""
    places: dict[torch.nn.Module, int]
    """Attention of each layer with pages, and its place among them."""
    open: list[Session] = field(default_factory=list)

    def hear(self, cache: Any, ids: torch.Tensor, *, new_tokens: int | None, is_first: bool) -> None:
        """Let the session of `cache` know the ids of a pass, if it is one of these."""
        session = getattr(cache, "session", None)
        if session in self.open:
            held_tokens = session.context_tokens
            session.continuation.hear(ids, new_tokens=new_tokens, held_tokens=held_tokens, is_first=is_first)


def _attach(model: Any, session: Session) -> None:
    sessions = getattr(model, _ATTRIBUTE, None)
    if sessions is None:
        places = {module: place for place, module in enumerate(attention_modules(model))}
        prepare = vars(model).get(PREPARE)
        sessions = _Sessions(before=model.config._attn_implementation, prepare=prepare, places=places)
        model.set_attn_implementation(NAME)
        setattr(model, PREPARE, announcing(getattr(model, PREPARE), sessions.hear))
        for module in (model, *attention_modules(model)):
            setattr(module, _ATTRIBUTE, sessions)
    sessions.open.append(session)


def _detach(model: Any, session: Session) -> None:
    sessions = getattr(model, _ATTRIBUTE)
    sessions.open.remove(session)
    if sessions.open:
        return
    for module in (model, *attention_modules(model)):
        delattr(module, _ATTRIBUTE)
    delattr(model, PREPARE)
    if sessions.prepare is not None:
        setattr(model, PREPARE, sessions.prepare)
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
        session = next((one for one in sessions.open if one.owns(key, layer)), None)
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
    is_again, end = not use_cache, session.context_tokens + new_tokens
    if not is_again:
        session.see(mask, new_tokens)
        is_again = new_tokens > 1 and position_ids is not None and ends_before(end, mask, position_ids)
    if is_again:
        raise KvsimError("the whole text is computed again, as with use_cache=False: a PagedCache needs use_cache=True")


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
