"""What comes: the selections of a whole run, handed to oracles only, and the next use of every page read off them."""

from __future__ import annotations

from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np

from kvsim.policies.base import Policy
from kvsim.types import IntArray, PageIds

NEVER = np.iinfo(np.int64).max
"""Next use of a page that is not read again."""


class Future(Protocol):
    """The selections of a run, before it begins. Only a bound may see it; no real runtime can."""

    @property
    def num_steps(self) -> int:
        """Steps of the run."""

    @property
    def num_layers(self) -> int:
        """Layers of the model."""

    def selected(self, step: int, layer: int) -> PageIds:
        """Return the pages that attention reads in one layer of one step, ascending."""


@runtime_checkable
class Oracle(Protocol):
    """A policy, or a part of one, that is handed the future before `start`. It has ``is_oracle = True``."""

    is_oracle: bool

    def foresee(self, future: Future) -> None:
        """Take in what the run will read."""


def is_oracle(policy: Policy | type[Policy]) -> TypeGuard[Oracle]:
    """Return whether `policy` wants the future."""
    return bool(getattr(policy, "is_oracle", False))


class NextUses:
    """When each page is read next, in decisions: ``step * num_layers + layer``, or `NEVER`.

    Examples
    --------
    >>> class Twice:
    ...     num_steps, num_layers = 2, 1
    ...     def selected(self, step, layer):
    ...         return np.array([[0, 2], [2]][step])
    >>> uses = NextUses(Twice(), num_pages=3)
    >>> uses.advance(0, 0)
    >>> [int(use) if use != NEVER else None for use in uses.at]
    [None, None, 1]
    """

    def __init__(self, future: Future, num_pages: int) -> None:
        self._num_layers = future.num_layers
        self.at: IntArray = np.full(num_pages, NEVER, dtype=np.int64)
        """Next decision that reads each page, after the one last given to `advance`, ``[num_page_ids]``."""
        self.reads: list[PageIds] = []
        """What each decision reads."""
        self._then: list[IntArray] = []
        for decision in reversed(range(future.num_steps * future.num_layers)):
            pages = future.selected(*divmod(decision, future.num_layers))
            self.reads.append(pages)
            self._then.append(self.at[pages])
            self.at[pages] = decision
        self.reads.reverse()
        self._then.reverse()

    def advance(self, step: int, layer: int) -> None:
        """Pass the decision of one layer: the pages it reads get their use after it. Call it for each in order."""
        decision = step * self._num_layers + layer
        self.at[self.reads[decision]] = self._then[decision]
