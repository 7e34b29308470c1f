"""How far one run's next tokens lie from another's that read the same text."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """What a run loses against one that is taken for right, both fed the same tokens."""

    kl_first_nats: float
    """Kullback-Leibler divergence of the first token's distribution from the right one."""
    kl_mean_nats: float
    """Mean over all steps."""
    greedy_agreement_frac: float
    """Share of steps in which the likeliest token is the same."""
    first_token_same: bool


def divergence_of(right: torch.Tensor, answered: torch.Tensor) -> Divergence:
    """Return how far `found` lies from `right`, both logits, ``[steps, vocab_size]``."""
    expected, actual = right.double().log_softmax(-1), answered.double().log_softmax(-1)
    kl = (expected.exp() * (expected - actual)).sum(-1)
    same = expected.argmax(-1) == actual.argmax(-1)
    return Divergence(
        kl_first_nats=float(kl[0]),
        kl_mean_nats=float(kl.mean()),
        greedy_agreement_frac=float(same.double().mean()),
        first_token_same=bool(same[0]),
    )
