"""Which tokens of a batch attention may read: pages without one of them are left where they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from kvsim.errors import KvsimError
from kvsim.types import BoolArray, IntArray, Scores


class Visible:
    """Tokens of each sequence that are no padding; of a sequence that has ended, none.

    Parameters
    ----------
    tokens
        ``[num_sequences, context_tokens]``, the token of the step under way among them.
    """

    def __init__(self, tokens: BoolArray, page_tokens: int) -> None:
        self._tokens = tokens
        self._page_tokens = page_tokens
        self._pages: BoolArray = np.logical_or.reduceat(tokens, np.arange(0, tokens.shape[1], page_tokens), axis=1)

    @property
    def ended(self) -> BoolArray:
        """Whether a sequence has ended: nothing of it is visible, ``[num_sequences]``."""
        ended: BoolArray = np.asarray(~self._pages.any(axis=1))
        return ended

    def scores(self, scores: Scores) -> Scores:
        """Return `scores`, ``[num_sequences, num_pages]``, with 0 for pages that hold no visible token.

        They may lack the last pages, of sequences that have ended.
        """
        shown = np.zeros(self._pages.shape, dtype=scores.dtype)
        np.copyto(shown[:, : scores.shape[1]], scores, where=self._pages[:, : scores.shape[1]])
        return shown

    def readable(self, chosen: Sequence[IntArray]) -> list[IntArray]:
        """Return of each sequence's chosen pages those that hold a visible token."""
        return [indices[self._pages[sequence, indices]] for sequence, indices in enumerate(chosen)]

    def mask(self, indices: IntArray, num_tokens: int, sequence: int | None = None) -> torch.Tensor:
        """Return which of the first `num_tokens` tokens of pages are visible, ``[num_sequences, num_tokens]``.

        Parameters
        ----------
        indices
            Pages, ``[num_sequences, num_pages]``.
        sequence
            Whose pages these are; one row for each sequence where absent.
        """
        rows = self._tokens if sequence is None else self._tokens[sequence : sequence + 1]
        places = (indices[:, :, None] * self._page_tokens + np.arange(self._page_tokens)).reshape(len(rows), -1)
        return torch.from_numpy(np.take_along_axis(rows, places[:, :num_tokens], axis=1))


def visible_tokens(mask: torch.Tensor | None, num_sequences: int) -> BoolArray | None:
    """Return the tokens that the last query of a pass sees, ``[num_sequences, tokens]``; None where it sees all.

    Raises
    ------
    KvsimError
        If the mask is not one of booleans, or hides the last token of a sequence.
    """
    if mask is None:
        return None
    seen = mask[..., -1, :].flatten(0, -2) if mask.dtype == torch.bool else None
    if seen is not None and bool(seen.all()):
        return None
    if seen is None or not bool(seen[:, -1].all()):
        raise KvsimError(
            "the attention mask hides a sequence's last token, or is not one of booleans; a PagedCache takes prompts "
            'that are padded on the left (tokenizer.padding_side = "left")'
        )
    tokens: BoolArray = seen.expand(num_sequences, -1).cpu().numpy()
    return tokens


def ends_before(end: int, mask: torch.Tensor | None, position_ids: torch.Tensor) -> bool:
    """Whether the last token of a pass stands before place `end` of its text, padding not counted."""
    hidden = 0 if mask is None or mask.dtype != torch.bool else int((~mask[..., -1, :].flatten(0, -2)[-1]).sum())
    return int(position_ids.flatten()[-1]) + 1 + hidden < end
