r"""Attention masks as numbers that are added to scores: 0 where a token sees another, minus infinity where not.

.. math:: \mathrm{softmax}\left(\frac{QK^\top}{\sqrt{d_k}} + M\right)V

Row i is the token that looks, column j the one that is seen. Masks of one size add up: a token sees what all of them
let it see.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from kvsim.types import BoolArray, FloatArray


def causal_mask(num_tokens: int) -> FloatArray:
    """Return the mask of autoregression, ``[num_tokens, num_tokens]``: 0 where j <= i.

    Examples
    --------
    >>> causal_mask(2)
    array([[  0., -inf],
           [  0.,   0.]])
    """
    places = np.arange(num_tokens)
    return _mask(places[None, :] <= places[:, None])


def module_mask(owners: ArrayLike) -> FloatArray:
    """Return the mask under which modules are encoded side by side, ``[num_tokens, num_tokens]``.

    Token i sees token j where j <= i and both are of one module: blocks along the diagonal, each causal, so that every
    module gets the states that it has alone.

    Parameters
    ----------
    owners
        The module of each token, as any number, ``[num_tokens]``.
    """
    array = np.asarray(owners)
    return causal_mask(array.size) + _mask(array[:, None] == array[None, :])


def position_mask(looking: ArrayLike, seen: ArrayLike) -> FloatArray:
    """Return the mask by which tokens see what has no later position, ``[num_looking, num_seen]``.

    Unlike `causal_mask` it holds where tokens are not stored in the order of their positions, as arguments behind the
    modules around them.

    Parameters
    ----------
    looking, seen
        Positions of the tokens.
    """
    return _mask(np.asarray(seen)[None, :] <= np.asarray(looking)[:, None])


def _mask(is_seen: BoolArray) -> FloatArray:
    return np.where(is_seen, 0.0, -np.inf)
