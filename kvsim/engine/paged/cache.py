"""The transformers cache whose keys and values are pages: it stores them; reading is the attention function's."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class Appends(Protocol):
    """Whatever keeps the keys and values of one new token a sequence."""

    context_tokens: int
    """Tokens each sequence holds, those of the step under way not counted."""

    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep ``[num_sequences, num_kv_heads, 1, head_dim]`` of one layer."""


class PagedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """One layer: `update` gets no query, so it stores the new token and hands it back; selection comes later."""

    is_sliding = False

    def __init__(self, run: Appends, layer: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._run = run
        self._layer = layer
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the pools exist before the cache does."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the new token of each sequence; return just that."""
        del args, kwargs
        self._run.append(self._layer, key_states, value_states)
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length a mask would have, and its offset."""
        return self._run.context_tokens + query_length, 0

    def get_seq_length(self) -> int:
        """Return the tokens seen before this step: the position of the new one."""
        return self._run.context_tokens

    def get_max_length(self) -> int:
        """Return -1, which is how transformers writes "no limit"."""
        return -1


class RunCache(Cache):
    """A cache for `past_key_values` over a paged decode run."""

    def __init__(self, run: Appends, num_layers: int) -> None:
        super().__init__(layers=[PagedLayer(run, layer) for layer in range(num_layers)])
