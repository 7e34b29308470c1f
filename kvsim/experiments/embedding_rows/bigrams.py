"""Which token tends to follow which: counted on one part of a stream, to predict another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvsim.types import IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Bigrams:
    """The tokens that followed each token most often, most often first; among equals the lower token."""

    starts: IntArray
    """``[vocab_size + 1]``: those of token t are ``nexts[starts[t] : starts[t + 1]]``."""
    nexts: IntArray

    def after(self, tokens: IntArray) -> IntArray:
        """Return the tokens expected after each of `tokens`, one after the other, a token named twice kept twice."""
        return np.concatenate([self.nexts[self.starts[token] : self.starts[token + 1]] for token in tokens.tolist()])

    def recall_frac(self, tokens: IntArray) -> float:
        """Return how often the next token of a stream was among those expected; nan of a stream of one."""
        shares = [
            following in self.nexts[self.starts[token] : self.starts[token + 1]]
            for token, following in zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True)
        ]
        return float(np.mean(shares)) if shares else float("nan")


def fit_bigrams(tokens: IntArray, *, vocab_size: int, most: int) -> Bigrams:
    """Return the `most` tokens that followed each one most often in a stream; none of a token that never occurred.

    Examples
    --------
    >>> bigrams = fit_bigrams(np.array([1, 2, 1, 2, 1, 3]), vocab_size=5, most=1)
    >>> bigrams.after(np.array([1, 2, 4])).tolist()
    [2, 1]
    """
    pairs, counts = np.unique(tokens[:-1] * vocab_size + tokens[1:], return_counts=True)
    firsts, seconds = np.divmod(pairs, vocab_size)
    order = np.lexsort((seconds, -counts, firsts))
    firsts, seconds = firsts[order], seconds[order]
    begins = np.searchsorted(firsts, np.arange(vocab_size + 1))
    is_stored = np.arange(firsts.size) - begins[firsts] < most
    num_stored = np.bincount(firsts[is_stored], minlength=vocab_size)
    return Bigrams(starts=np.concatenate(([0], np.cumsum(num_stored))), nexts=seconds[is_stored])
