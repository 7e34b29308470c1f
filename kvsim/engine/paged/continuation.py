"""What a cache learns of the ids that `generate` goes on with: whether they continue its text, and which have ended."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from kvsim.engine.model.forward import CACHE_ARGUMENT
from kvsim.errors import KvsimError
from kvsim.types import BoolArray

PREPARE = "prepare_inputs_for_generation"
"""The method of a model that `generate` calls before each pass, with all ids so far."""


class Continuation:
    """The ids behind the keys and values of a cache, as far as `generate` showed them.

    Parameters
    ----------
    end_token_ids
        Tokens after which a sequence has ended, as `eos_token_id` of `generate`.
    """

    def __init__(self, num_sequences: int, end_token_ids: Sequence[int]) -> None:
        self._end_token_ids = tuple(end_token_ids)
        self._ids: torch.Tensor | None = None
        self._is_compared = False
        self._at_end: BoolArray = np.zeros(num_sequences, dtype=np.bool_)
        self.ended: BoolArray = np.zeros(num_sequences, dtype=np.bool_)
        """Sequences that ended in this turn: what follows is padding, and nobody reads what comes of it."""

    def copied(self) -> Continuation:
        """Return one that goes on from the same ids."""
        copied = Continuation(self.ended.size, self._end_token_ids)
        copied._ids, copied._is_compared = self._ids, self._is_compared
        copied._at_end, copied.ended = self._at_end.copy(), self.ended.copy()
        return copied

    def hear(self, ids: torch.Tensor, *, new_tokens: int | None, held_tokens: int, is_first: bool) -> None:
        """Learn of a pass before it is computed.

        Parameters
        ----------
        ids
            All ids of the text, ``[num_sequences, tokens]``.
        new_tokens
            How many of them the pass computes; None where `ids` are just the new ones, whose text is unknown.
        held_tokens
            Tokens that the cache holds.
        is_first
            Whether a call of `generate` begins.

        Raises
        ------
        KvsimError
            If the ids are no longer than the cache's, or are others.
        """
        if new_tokens is not None and new_tokens < 1:
            raise KvsimError(
                f"the ids are {ids.shape[1]} tokens, this PagedCache holds {held_tokens}: pass the whole text so far "
                "and what follows it, or make another cache for another text"
            )
        self._end(ids, is_turn=is_first or new_tokens != 1)
        is_whole = new_tokens is not None and ids.shape[1] - new_tokens == held_tokens
        if is_first or not is_whole:
            self._is_compared = False
        if is_whole and not self._is_compared:
            self._compare(ids, held_tokens)
            self._is_compared = True
        if is_whole:
            self._ids = ids

    def _end(self, ids: torch.Tensor, *, is_turn: bool) -> None:
        """Note who ended. The token that ends a sequence is computed whole: a later turn may read it."""
        if is_turn:
            self.ended[:] = self._at_end[:] = False
        elif self._end_token_ids:
            self.ended |= self._at_end
            self._at_end = np.isin(ids[:, -1].cpu().numpy(), self._end_token_ids)

    def _compare(self, ids: torch.Tensor, held_tokens: int) -> None:
        if self._ids is None or self._ids.shape[0] != ids.shape[0]:
            return
        known = min(held_tokens, self._ids.shape[1])
        is_other = ids[:, :known] != self._ids[:, :known].to(ids.device)
        if bool(is_other.any()):
            sequence, token = is_other.nonzero()[0].tolist()
            where = f"token {token}" if len(ids) == 1 else f"token {token} of sequence {sequence}"
            raise KvsimError(
                f"the ids do not continue what this PagedCache holds: {where} is another; pass the same text and what "
                "follows it, or make another cache"
            )


def announcing(prepare: Callable[..., Any], hear: Callable[..., None]) -> Callable[..., Any]:
    """Return a model's `prepare_inputs_for_generation` that lets `hear` know of each pass first."""

    @functools.wraps(prepare)
    def prepared(input_ids: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        new_tokens, is_first = named.get("next_sequence_length"), bool(named.get("is_first_iteration", False))
        hear(named.get(CACHE_ARGUMENT), input_ids, new_tokens=new_tokens, is_first=is_first)
        return prepare(input_ids, *arguments, **named)

    return prepared
