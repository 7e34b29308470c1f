"""The transformers cache whose keys and values are pages: it stores them; reading is the attention function's."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers.cache_utils import CacheLayerMixin

from kvsim.errors import KvsimError


class Keeps(Protocol):
    """Whatever keeps the keys and values of new tokens: a decode run, or a session with a prompt before it."""

    @property
    def context_tokens(self) -> int:
        """Tokens each sequence holds, those of the pass under way not counted."""

    def update(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep ``[num_sequences, num_kv_heads, tokens, head_dim]`` of one layer; return what attention is handed."""


class PagedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """One layer: `update` gets no query, so new tokens are kept, and pages are selected later."""

    is_sliding = False

    def __init__(self, run: Keeps, layer: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._run = run
        self._layer = layer
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the pools exist before the cache does."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the new tokens and return what attention is handed."""
        del args, kwargs
        return self._run.update(self._layer, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length a mask would have, and its offset."""
        return self._run.context_tokens + query_length, 0

    def get_seq_length(self) -> int:
        """Return the tokens seen before this pass: the position of the first new one."""
        return self._run.context_tokens

    def get_max_length(self) -> int:
        """Return -1, which is how transformers writes "no limit": a session has its own, and says so."""
        return -1

    def reset(self) -> None:
        """Refuse to start over."""
        raise KvsimError("a paged cache is for one generation; make another for the next")
