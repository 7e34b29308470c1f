"""The accounting of a prompt cache: the longest shared beginning, budgets in bytes, and who leaves whose tier."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.caches.prompts.accounting import PROMPT_POLICIES, PromptCacheState, TierBudget
from kvsim.caches.prompts.token_tree import TokenTree
from kvsim.errors import CapacityError, PolicyError

PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple), min_size=1, max_size=25)


def shared(left, right) -> int:
    same = 0
    while same < min(len(left), len(right)) and left[same] == right[same]:
        same += 1
    return same


def array(prompt) -> np.ndarray:
    return np.array(prompt, dtype=np.int64)


def num_nodes(tree: TokenTree) -> int:
    """Return the runs that the tree has, its root aside."""
    nodes = [tree._root]
    for node in nodes:
        nodes += node.children.values()
    return len(nodes) - 1


@settings(max_examples=150)
@given(PROMPTS, st.data())
def test_a_tree_finds_what_comparing_with_every_prompt_finds(prompts, data) -> None:
    tree, held = TokenTree(), {}
    for entry, prompt in enumerate(prompts):
        if held and data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(sorted(held)))
            tree.remove(gone)
            del held[gone]
        best = max((shared(prompt, other) for other in held.values()), default=0)
        latest = max((number for number, other in held.items() if shared(prompt, other) == best), default=None)
        assert tree.longest(array(prompt)) == (best, latest if best else None)
        tree.insert(entry, array(prompt))
        held[entry] = prompt
        assert len(tree) == len(held)
        assert num_nodes(tree) < 2 * len(held)  # joined where nothing parts: no chain of single runs is left behind
    for entry in held:
        tree.remove(entry)
    assert num_nodes(tree) == 0


@settings(max_examples=150)
@given(PROMPTS, st.sampled_from(PROMPT_POLICIES), st.integers(1, 20), st.none() | st.integers(1, 20))
def test_books_hold_what_their_moves_say_and_never_more_than_the_budgets(prompts, policy, device, host) -> None:
    tiers = [TierBudget(tier="device", budget_bytes=10 * device, policy=policy)]
    if host is not None:
        tiers.append(TierBudget(tier="host", budget_bytes=10 * host, policy=policy))
    state, held, where = PromptCacheState(10, tiers), {}, {}
    for prompt in prompts:
        found, kept = state.request(array(prompt))
        best = max((shared(prompt, other) for other in held.values()), default=0)
        assert found.shared_tokens == best
        assert found.tokens == min(best, len(prompt) - 1)
        if found.entry is not None:
            assert shared(held[found.entry], prompt) == best
            assert found.tier == where[found.entry]
        for move in kept.moves:
            assert (move.tier, move.tokens) == (where[move.entry], len(held[move.entry]))
            if move.to is None:
                del held[move.entry], where[move.entry]
            else:
                where[move.entry] = move.to
        if kept.entry is not None:
            held[kept.entry], where[kept.entry] = prompt, kept.tier
        for tier, budget in (("device", device), ("host", host or 0)):
            used = sum(len(held[entry]) for entry in held if where[entry] == tier)
            assert state.used_bytes(tier) == 10 * used <= 10 * budget
        assert not any(
            left != right and shared(held[left], held[right]) == len(held[left]) for left in held for right in held
        )
    assert len(state) == len(held)


def run(state: PromptCacheState, *prompts: str) -> list[tuple]:
    return [state.request(array([ord(letter) for letter in prompt])) for prompt in prompts]


def test_the_prompt_used_longest_ago_leaves_for_the_host_and_then_for_good() -> None:
    tiers = [TierBudget(tier="device", budget_bytes=8), TierBudget(tier="host", budget_bytes=4)]
    done = run(PromptCacheState(1, tiers), "aaaa", "bbbb", "aaxx", "cccc")
    assert [(move.entry, move.tier, move.to) for _, kept in done for move in kept.moves] == [
        (1, "device", "host"),
        (1, "host", None),
        (0, "device", "host"),
    ]
    assert done[2][0].tokens == 2


def test_a_prompt_that_goes_on_from_a_kept_one_takes_its_place() -> None:
    done = run(PromptCacheState(1, [TierBudget(tier="host")]), "abc", "abcd", "ab", "abcd")
    assert [(found.tokens, found.tier) for found, _ in done] == [(0, None), (3, "host"), (1, "host"), (3, "host")]
    assert [kept.entry for _, kept in done] == [0, 1, None, None]
    (move,) = done[1][1].moves
    assert (move.is_replaced, move.to) == (True, None)


def test_a_prompt_that_the_device_cannot_hold_is_kept_on_the_host_or_nowhere() -> None:
    tiers = [TierBudget(tier="device", budget_bytes=3), TierBudget(tier="host", budget_bytes=5)]
    state = PromptCacheState(1, tiers)
    assert [kept.tier for _, kept in run(state, "abc", "vwxyz", "abcdefgh")] == ["device", "host", None]
    assert run(state, "abc")[0][0].tokens == 2  # what was not kept pushed nothing out


def test_fewer_tokens_than_asked_for_are_computed_rather_than_reused() -> None:
    state = PromptCacheState(1, [TierBudget(tier="host")], least_tokens=3)
    assert [found.tokens for found, _ in run(state, "abcd", "abxx", "abcx")] == [0, 0, 3]


def test_lfu_keeps_what_is_used_again_where_fifo_does_not() -> None:
    left = {}
    for policy in ("lfu", "fifo"):
        state = PromptCacheState(1, [TierBudget(tier="device", budget_bytes=6, policy=policy)])
        done = run(state, "aaa", "aa", "bbb", "ccc")
        left[policy] = [move.entry for _, kept in done for move in kept.moves]
    assert left == {"lfu": [1], "fifo": [0]}


def test_the_hand_of_sieve_moves_on_from_a_prompt_that_a_longer_one_replaced() -> None:
    state = PromptCacheState(1, [TierBudget(tier="device", budget_bytes=6, policy="sieve")])
    done = run(state, "aa", "bb", "cc", "dd", "bbx", "ee")  # the hand stands at bb when bbx takes its place
    assert [[move.entry for move in kept.moves] for _, kept in done] == [[], [], [], [0], [1, 2], [3]]


@pytest.mark.parametrize(
    ("tiers", "error", "told"),
    [
        ([], CapacityError, "needs a tier, and each once; found none"),
        ([TierBudget(tier="host"), TierBudget(tier="host")], CapacityError, "found host, host"),
        ([TierBudget(tier="host", budget_bytes=9)], CapacityError, "9 bytes hold no token, which takes 10"),
        ([TierBudget(tier="host", policy="lur")], PolicyError, "did you mean 'lru'"),
        ([TierBudget(tier="host", policy="arc")], PolicyError, "known are lru, fifo, lfu, sieve"),
    ],
)
def test_what_books_cannot_be_made_of_is_told(tiers, error, told) -> None:
    with pytest.raises(error, match=told):
        PromptCacheState(10, tiers)
