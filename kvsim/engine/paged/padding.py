"""The padding of a batch's text: left out where pages are filled, put back where a text is read as a whole again."""

from __future__ import annotations

import numpy as np
import torch

from kvsim.errors import KvsimError
from kvsim.types import BoolArray, IntArray


class Padding:
    """Where the tokens of each sequence lie in a text that is padded, at its beginning or between its turns.

    Parameters
    ----------
    visible
        Which tokens of the text are no padding, ``[num_sequences, tokens]``.
    """

    def __init__(self, visible: BoolArray) -> None:
        self._visible = visible
        self._places = [torch.from_numpy(np.flatnonzero(row)) for row in visible]

    @property
    def sequence_tokens(self) -> tuple[int, ...]:
        """Tokens of each sequence without its padding."""
        return tuple(len(places) for places in self._places)

    def take_out(self, tokens: torch.Tensor) -> None:
        """Move the tokens of each sequence together, ``[num_sequences, num_layers, room, ...]``, from place 0 on."""
        for own, places in zip(tokens, self._places, strict=True):
            moved = own[:, places]
            own.zero_()
            own[:, : len(places)] = moved

    def put_back(self, tokens: torch.Tensor, sequence_tokens: IntArray) -> None:
        """Undo `take_out`, with what each sequence has decoded since behind the text; it has `sequence_tokens` now."""
        end = self._visible.shape[1]
        for own, places, count in zip(tokens, self._places, sequence_tokens.tolist(), strict=True):
            moved = own[:, :count].clone()
            own.zero_()
            own[:, places] = moved[:, : len(places)]
            own[:, end : end + count - len(places)] = moved[:, len(places) :]

    def seen_of(self, visible: BoolArray | None) -> BoolArray | None:
        """Return which of each sequence's own tokens are visible, by those of the padded text; None where all are.

        Raises
        ------
        KvsimError
            If padding is visible.
        """
        end = self._visible.shape[1]
        if visible is None or (visible[:, :end] & ~self._visible).any():
            raise KvsimError("the attention mask of a decode step shows tokens that it hid from the last of the prompt")
        seen = np.zeros((len(visible), max(self.sequence_tokens) + visible.shape[1] - end), dtype=np.bool_)
        is_whole = True
        for own, places, row in zip(seen, self._places, visible, strict=True):
            shown = np.concatenate((row[places.numpy()], row[end:]))
            own[: shown.size] = shown
            is_whole = is_whole and bool(shown.all())
        return None if is_whole else seen
