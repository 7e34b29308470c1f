"""The open sessions of a model, and the attention function that asks them, registered as ``kvsim-generate``."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from kvsim.engine.model.dense import dense_attention
from kvsim.engine.model.families import attention_modules
from kvsim.engine.paged.continuation import PREPARE, announcing
from kvsim.engine.paged.visible import ends_before
from kvsim.errors import KvsimError

if TYPE_CHECKING:
    from kvsim.engine.paged.session import Session

NAME = "kvsim-generate"
"""What the registered attention is called. Its masks are SDPA's, so that a prompt may come in chunks."""

_ATTRIBUTE = "kvsim_sessions"

_ATTACHING = threading.RLock()
"""Held while a session opens or closes. Re-entrant: what is allocated meanwhile may have the garbage collector close
another session in the same thread."""


@dataclass(slots=True, eq=False)
class Sessions:
    """The open sessions of a model, and the attention it had before the first."""

    before: str
    prepare: Any
    """The model's own `prepare_inputs_for_generation` where it is not that of its class."""
    places: dict[torch.nn.Module, int]
    """Attention of each layer with pages, and its place among them."""
    open: dict[int, Session] = field(default_factory=dict)
    """By id. `list` takes its values in one go, whatever other threads do."""

    def hear(self, cache: Any, ids: torch.Tensor, *, new_tokens: int | None, is_first: bool) -> None:
        """Let the session of `cache` know the ids of a pass, if it is one of these."""
        session = self.open.get(id(getattr(cache, "session", None)))
        if session is not None:
            held_tokens = session.context_tokens
            session.continuation.hear(ids, new_tokens=new_tokens, held_tokens=held_tokens, is_first=is_first)


def attach(model: Any, session: Session) -> None:
    """Let `session` answer where attention of `model` is about its keys."""
    with _ATTACHING:
        while (sessions := getattr(model, _ATTRIBUTE, None)) is None or id(session) not in sessions.open:
            if sessions is None:
                sessions = _installed(model)
            sessions.open[id(session)] = session  # the last of the others may have closed just before: then once more


def _installed(model: Any) -> Sessions:
    """Give a model the attention that asks sessions, and return its sessions: none yet."""
    places = {module: place for place, module in enumerate(attention_modules(model))}
    before, prepare = model.config._attn_implementation, vars(model).get(PREPARE)
    sessions = Sessions(before=before, prepare=prepare, places=places)
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    setattr(model, PREPARE, announcing(getattr(model, PREPARE), sessions.hear))
    for module in (model, *places):
        setattr(module, _ATTRIBUTE, sessions)
    return sessions


def detach(model: Any, session: Session) -> None:
    """Take `session` off; with the last one the model gets back what it had before."""
    with _ATTACHING:
        sessions: Sessions = getattr(model, _ATTRIBUTE)
        del sessions.open[id(session)]
        if sessions.open or getattr(model, _ATTRIBUTE, None) is not sessions:
            return
        for module in (model, *sessions.places):
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
    sessions: Sessions | None = getattr(module, _ATTRIBUTE, None)
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
    is_again, end = not use_cache, session.context_tokens + new_tokens
    if not is_again:
        session.see(mask, new_tokens)
        is_again = new_tokens > 1 and position_ids is not None and ends_before(end, mask, position_ids)
    if is_again:
        raise KvsimError("the whole text is computed again, as with use_cache=False: a PagedCache needs use_cache=True")
