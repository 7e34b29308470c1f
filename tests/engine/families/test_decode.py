"""Every policy, at two budgets, gives what transformers' own cache gives, for every family."""

from __future__ import annotations

import copy
import functools

import pytest

torch = pytest.importorskip("torch")

from kvsim.engine.model.layers import window_layers  # noqa: E402
from kvsim.engine.paged.prefill import prefill  # noqa: E402
from kvsim.policies import find_policy  # noqa: E402
from kvsim.policies.registry import POLICIES  # noqa: E402
from tests.engine.decoding import default_cache_logits, input_for, run  # noqa: E402
from tests.engine.families.models import WINDOW_TOKENS  # noqa: E402

PROMPT_TOKENS, NUM_STEPS = 90, 8  # 6 pages, and a seventh opens
CHUNK_TOKENS = 64
"""Of the prefill; a delta net computes so many tokens together, and rounds otherwise where it has to take fewer."""
ONE_LAYER, TWO_LAYERS = (4, 5), (6, 7)
"""Budgets in pages a layer: of policies that need one layer's pages at once, and of those that need two."""


def paged_policies():
    """Return the built-in policies that read what full attention reads and need no future."""
    names = [name for name, entry in POLICIES.items() if not entry.is_oracle and entry.kind in ("policy", "eviction")]
    return [name for name in names if find_policy(name).attends != "resident"]


@functools.lru_cache(maxsize=1)
def expected(model):
    """Return the prompt's snapshot, and logits and greedy tokens of transformers' own cache."""
    ids = torch.randint(3, 256, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(3))
    snapshot = prefill(model, ids, room_tokens=NUM_STEPS, chunk_tokens=CHUNK_TOKENS)
    return snapshot, *default_cache_logits(model, ids, NUM_STEPS)


@pytest.mark.parametrize("policy", paged_policies())
def test_pages_give_the_tokens_and_logits_of_the_default_cache(model, policy):
    snapshot, logits, tokens = expected(model)
    assert not window_layers(model.config) or PROMPT_TOKENS > WINDOW_TOKENS  # the oldest tokens are dropped there
    budgets = TWO_LAYERS if find_policy(policy).attends == "everything" else ONE_LAYER
    moved = []
    for pages in budgets:
        result = run(model, snapshot, input_for(snapshot, policy, num_steps=NUM_STEPS, pages_per_layer=pages))
        assert torch.equal(result.tokens, tokens)
        torch.testing.assert_close(result.logits, logits, rtol=2e-5, atol=5e-5)
        moved.append(int(result.counts["to_device_bytes"].sum()))
    if find_policy(policy).holds == "budget" and find_policy(policy).attends == "selection":
        assert moved[0] > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pages_give_the_logits_of_the_default_cache_in_half_precision(model, dtype):
    half = copy.deepcopy(model).to(dtype)
    ids = torch.randint(3, 256, (2, 70), generator=torch.Generator().manual_seed(4))
    logits, _ = default_cache_logits(half, ids, 1)
    snapshot = prefill(half, ids, room_tokens=1)
    result = run(half, snapshot, input_for(snapshot, "lru", num_steps=1, pages_per_layer=3))
    spread = logits.float().std()
    assert (result.logits - logits.float()).abs().max() < 0.1 * spread
