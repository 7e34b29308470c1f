"""Compiled scores of pages by the boxes around their keys, on the host: one call for what takes torch a dozen."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit

Floats: TypeAlias = NDArray[np.float32]

_REORDERED = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be taken in any order, so that they are vectorised; NaN stays NaN, which shows pages that never came."""


@njit
def widen(bounds: Floats, page: int, keys: Floats) -> None:
    """Widen a page's boxes by one key each.

    Parameters
    ----------
    bounds
        (high, -low) of each page's box, ``[num_sequences, num_kv_heads, num_pages, 2 head_dim]``.
    keys
        ``[num_sequences, num_kv_heads, 1, head_dim]``.
    """
    num_sequences, num_kv_heads, _, head_dim = keys.shape
    for sequence in range(num_sequences):
        for head in range(num_kv_heads):
            box, key = bounds[sequence, head, page], keys[sequence, head, 0]
            for place in range(head_dim):
                box[place] = max(box[place], key[place])
                box[head_dim + place] = max(box[head_dim + place], -key[place])


@njit(nogil=True, error_model="numpy", fastmath=_REORDERED)
def box_scores(query: Floats, bounds: Floats, scaling: float, softcap: float, scores: Floats) -> None:
    """Write the mean over query heads of the softmax over pages of the most that a key within a box could score.

    Parameters
    ----------
    query
        ``[num_sequences, num_heads, head_dim]``.
    bounds
        (high, -low) of each page's box, ``[num_sequences, num_kv_heads, num_pages or more, 2 head_dim]``.
    scaling, softcap
        What products are multiplied by, and bent below; 0: no cap.
    scores
        ``[num_sequences, num_pages]``.
    """
    num_sequences, num_heads, head_dim = query.shape
    num_kv_heads, num_pages = bounds.shape[1], scores.shape[1]
    group = num_heads // num_kv_heads
    signed = np.empty(2 * head_dim, dtype=np.float32)
    logits = np.empty(num_pages, dtype=np.float32)
    scores[:] = np.float32(0)
    for sequence in range(num_sequences):
        row = scores[sequence]
        for head in range(num_heads):
            for place in range(head_dim):
                number = query[sequence, head, place] * np.float32(scaling)
                signed[place] = max(number, np.float32(0))
                signed[head_dim + place] = max(-number, np.float32(0))
            boxes = bounds[sequence, head // group]
            for page in range(num_pages):
                product = np.float32(0)
                for place in range(2 * head_dim):
                    product += signed[place] * boxes[page, place]
                logits[page] = product
            if softcap:
                for page in range(num_pages):
                    logits[page] = np.tanh(logits[page] / np.float32(softcap)) * np.float32(softcap)
            greatest = logits[0]
            for page in range(1, num_pages):
                greatest = max(greatest, logits[page])
            total = np.float32(0)
            for page in range(num_pages):
                logits[page] = np.exp(logits[page] - greatest)
                total += logits[page]
            share = np.float32(1) / (total * np.float32(num_heads))
            for page in range(num_pages):
                row[page] += logits[page] * share


@njit(nogil=True, error_model="numpy", fastmath=_REORDERED)
def speculated_query(
    hidden: Floats, weights: NDArray[np.int8], row_scales: Floats, epsilon: float, rotary: Floats
) -> Floats:
    """Return the query that a layer would make of a hidden state, ``[num_sequences, num_heads, head_dim]``.

    The hidden state is divided by its root mean square and multiplied by the weights, and each head's result is rotated
    by halves, as in Llama.

    Parameters
    ----------
    hidden
        ``[num_sequences, hidden_size]``.
    weights, row_scales
        The query projection with the norm's weights in it, ``[num_heads * head_dim, hidden_size]``, and what each row
        is multiplied by.
    epsilon
        Added to the mean square.
    rotary
        Cosines and sines of each sequence's position, ``[2, num_sequences, head_dim]``.
    """
    num_sequences, hidden_size = hidden.shape
    head_dim, half = rotary.shape[2], rotary.shape[2] // 2
    num_heads = weights.shape[0] // head_dim
    normed = np.empty((num_sequences, hidden_size), dtype=np.float32)
    for sequence in range(num_sequences):
        squares = np.float32(0)
        for place in range(hidden_size):
            squares += hidden[sequence, place] * hidden[sequence, place]
        factor = np.float32(1) / np.sqrt(squares / np.float32(hidden_size) + np.float32(epsilon))
        for place in range(hidden_size):
            normed[sequence, place] = hidden[sequence, place] * factor
    query = np.empty((num_sequences, num_heads, head_dim), dtype=np.float32)
    for head in range(num_heads):
        for place in range(head_dim):
            row = weights[head * head_dim + place]
            for sequence in range(num_sequences):
                total = np.float32(0)
                numbers = normed[sequence]
                for each in range(hidden_size):
                    total += numbers[each] * np.float32(row[each])
                query[sequence, head, place] = total * row_scales[head * head_dim + place]
    for sequence in range(num_sequences):
        cosines, sines = rotary[0, sequence], rotary[1, sequence]
        for head in range(num_heads):
            numbers = query[sequence, head]
            for low in range(half):
                first, second = numbers[low], numbers[half + low]
                numbers[low] = first * cosines[low] - second * sines[low]
                numbers[half + low] = second * cosines[half + low] + first * sines[half + low]
    return query


@njit(nogil=True, error_model="numpy", fastmath=_REORDERED)
def speculated_scores(
    hidden: Floats,
    weights: NDArray[np.int8],
    row_scales: Floats,
    epsilon: float,
    rotary: Floats,
    bounds: Floats,
    scaling: float,
    softcap: float,
    scores: Floats,
) -> None:
    """Write the `box_scores` of the `speculated_query`; arguments as theirs."""
    box_scores(speculated_query(hidden, weights, row_scales, epsilon, rotary), bounds, scaling, softcap, scores)
