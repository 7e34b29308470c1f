"""Generation out of a prompt cache is generation without one, and what it says it reused is what it restored."""

from __future__ import annotations

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM  # noqa: E402

from kvsim.caches.prompts.accounting import PromptCacheState, TierBudget  # noqa: E402
from kvsim.engine import PromptCache, generate_with_prompt_cache  # noqa: E402
from kvsim.engine.model.loading import load_model  # noqa: E402
from kvsim.errors import KvsimError  # noqa: E402
from kvsim.experiments.prompt_cache.engine.run import answer  # noqa: E402

TOKEN_BYTES = 3 * 2 * 2 * 16 * 4  # of both tiny models but for the heads: layers, K and V, heads, head_dim, fp32
FAST_BYTES_PER_S = 1e10


def prompts(lengths=(40, 40, 55, 23, 40, 60, 8), shared=20) -> list[np.ndarray]:
    """Return prompts of which the first `shared` tokens are alike, the first and the fifth wholly."""
    rng = np.random.default_rng(5)
    system = rng.integers(3, 256, shared)
    made = [np.concatenate([system, rng.integers(3, 256, 64)])[:size].astype(np.int64) for size in lengths]
    made[4] = made[0].copy()
    made[2][:40] = made[1]
    return made


def tiers(name: str, budget_tokens: int | None) -> list[TierBudget]:
    budget = None if budget_tokens is None else budget_tokens * TOKEN_BYTES
    if name == "both":
        return [TierBudget(tier="device", budget_bytes=budget), TierBudget(tier="host", budget_bytes=budget)]
    return [TierBudget(tier=name, budget_bytes=budget)]


def batch(prompt: np.ndarray):
    return torch.from_numpy(prompt).unsqueeze(0)


@pytest.mark.parametrize("name", ["device", "host", "both"])
@pytest.mark.parametrize("budget_tokens", [None, 70])
def test_greedy_answers_and_logits_are_those_of_plain_generate(tiny_model, name, budget_tokens) -> None:
    reused = []
    with PromptCache(tiny_model, tiers(name, budget_tokens), bandwidth_bytes_per_s=FAST_BYTES_PER_S) as cache:
        for prompt in prompts():
            plain = tiny_model.generate(
                batch(prompt), max_new_tokens=12, do_sample=False, return_dict_in_generate=True, output_logits=True
            )
            ours = generate_with_prompt_cache(
                tiny_model, batch(prompt), cache=cache, max_new_tokens=12, do_sample=False, output_logits=True
            )
            assert torch.equal(ours.sequences, plain.sequences)
            assert torch.equal(ours.new_ids, plain.sequences[:, prompt.size :])
            for found, expected in zip(ours.logits, plain.logits, strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            assert ours.first_token_s > 0
            reused.append(ours.reused.tokens)
        report = cache.report()
    assert report.reused_tokens == sum(reused) > 0
    if budget_tokens is None:
        assert reused == [0, 20, 40, 20, 39, 20, 7]
        assert report.transfers == (0 if name != "host" else 6 + 5)  # 6 hits, 5 prompts kept: one is kept already


@pytest.mark.parametrize("name", ["tiny_model", "tiny_gpt2"])
@pytest.mark.parametrize("policy", ["lru", "fifo", "lfu", "sieve"])
def test_the_engine_counts_what_the_books_alone_count(name, policy, request) -> None:
    model = request.getfixturevalue(name)
    token_bytes = TOKEN_BYTES * (2 if name == "tiny_gpt2" else 1)
    budgets = [
        TierBudget(tier="device", budget_bytes=60 * token_bytes, policy=policy),
        TierBudget(tier="host", budget_bytes=90 * token_bytes, policy=policy),
    ]
    state = PromptCacheState(token_bytes, budgets)
    rng = np.random.default_rng(1)
    asked = [prompts()[place] for place in rng.integers(0, 7, 25)]
    with PromptCache(model, budgets, bandwidth_bytes_per_s=FAST_BYTES_PER_S) as cache:
        done = [answer(model, prompt, chunk_tokens=16, cache=cache) for prompt in asked]
        report = cache.report()
    known = [state.request(prompt) for prompt in asked]
    assert [(found.reuse, found.keeping) for found in done] == known
    assert [found.held_tokens for found in done] == [found.tokens for found, _ in known]
    assert (report.device_bytes, report.host_bytes) == (state.used_bytes("device"), state.used_bytes("host"))
    moves = [move for _, kept in known for move in kept.moves]
    assert report.evicted == sum(move.to is None and not move.is_replaced for move in moves) > 0
    assert report.demoted == sum(move.to == "host" for move in moves) > 0
    assert report.host_hits == sum(found.tier == "host" for found, _ in known) > 0
    for prompt, found in zip(asked, done, strict=True):
        torch.testing.assert_close(found.logits, answer(model, prompt, chunk_tokens=512).logits, rtol=1e-4, atol=1e-4)


def test_another_prompts_states_would_change_the_answer(tiny_model) -> None:
    first, second = prompts()[0], prompts()[3]
    with PromptCache(tiny_model) as cache:
        answer(tiny_model, first, chunk_tokens=16, cache=cache)
        with torch.inference_mode():
            cache._states[0].tensor.mul_(0.5)
        found = answer(tiny_model, second, chunk_tokens=16, cache=cache).logits
    assert not torch.allclose(found, answer(tiny_model, second, chunk_tokens=16).logits, rtol=1e-2, atol=1e-2)


def test_memory_that_runs_out_while_a_prompt_is_kept_leaves_an_empty_cache(tiny_model, monkeypatch) -> None:
    first, second = prompts()[0], prompts()[3]
    with PromptCache(tiny_model) as cache:
        answer(tiny_model, first, chunk_tokens=16, cache=cache)
        with monkeypatch.context() as patch:
            patch.setattr("kvsim.experiments.prompt_cache.engine.cache.keep", lambda *given, **options: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                answer(tiny_model, second, chunk_tokens=16, cache=cache)
        assert cache.report().kept_prompts == 0
        assert [answer(tiny_model, first, chunk_tokens=16, cache=cache).held_tokens for _ in range(2)] == [0, 39]


def test_a_device_tier_keeps_no_thread_and_a_closed_cache_none(tiny_model) -> None:
    def threads() -> int:
        return sum(thread.name.startswith("kvsim-to-") for thread in threading.enumerate())

    before = threads()
    for name in ("device", "host"):
        cache = PromptCache(tiny_model, tiers(name, None), bandwidth_bytes_per_s=FAST_BYTES_PER_S)
        answer(tiny_model, prompts()[0], chunk_tokens=64, cache=cache)
        assert threads() - before == (2 if name == "host" else 0)
        cache.close()
        assert threads() == before


def test_what_cannot_go_with_a_prompt_cache_is_told_in_a_line(tiny_model, tiny_gpt2) -> None:
    cache = PromptCache(tiny_model)
    given = batch(prompts()[0])
    faults = [
        (tiny_gpt2, given, {}, "another model"),
        (tiny_model, given.repeat(2, 1), {}, r"one prompt, \[1, tokens\]; found \[2, 40\]"),
        (tiny_model, given[:, :0], {}, r"found \[1, 0\]"),
        (tiny_model, given, {"num_beams": 3}, "num_beams=3: a prompt cache goes with one answer"),
        (tiny_model, given, {"use_cache": False}, "use_cache is what generate_with_prompt_cache gives itself"),
    ]
    for model, input_ids, options, told in faults:
        with pytest.raises(KvsimError, match=told):
            generate_with_prompt_cache(model, input_ids, cache=cache, max_new_tokens=2, **options)
    with pytest.raises(KvsimError, match="say its bandwidth_bytes_per_s"):
        PromptCache(tiny_model, tiers("host", None))


def test_a_model_that_does_not_attend_to_everything_is_refused() -> None:
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = MistralConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, sliding_window=8)
    with pytest.raises(KvsimError, match="full attention only"):
        PromptCache(MistralForCausalLM(config))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_states_are_kept_in_the_models_dtype(dtype) -> None:
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval().to(dtype)
    prompt = np.arange(30, dtype=np.int64)
    with PromptCache(model, tiers("host", None), bandwidth_bytes_per_s=FAST_BYTES_PER_S) as cache:
        whole = answer(model, prompt, chunk_tokens=64, cache=cache)
        again = answer(model, np.append(prompt[:20], prompt[:10]), chunk_tokens=64, cache=cache)
        assert cache._states[0].tensor.dtype == dtype
        assert (whole.held_tokens, again.held_tokens) == (0, 20)
    alone = answer(model, np.append(prompt[:20], prompt[:10]), chunk_tokens=64)
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-3}[dtype]
    torch.testing.assert_close(again.logits, alone.logits, rtol=tolerance, atol=tolerance)


@pytest.mark.model
def test_the_trained_model_answers_alike_out_of_either_tier(model_path) -> None:
    model, tokenizer = load_model(model_path, "fp32")
    system = "You are a careful assistant. Answer in one short sentence and name your source. " * 6
    asked = [system + "Question: what is a cache?", system + "Question: name three colours."]
    for name in ("device", "host"):
        with PromptCache(model, tiers(name, None), bandwidth_bytes_per_s=FAST_BYTES_PER_S) as cache:
            for place, text in enumerate(asked):
                ids = tokenizer(text, return_tensors="pt")["input_ids"]
                options = {"max_new_tokens": 12, "do_sample": False, "output_logits": True}
                plain = model.generate(
                    ids, attention_mask=torch.ones_like(ids), return_dict_in_generate=True, **options
                )
                ours = generate_with_prompt_cache(model, ids, cache=cache, **options)
                assert torch.equal(ours.sequences, plain.sequences)
                torch.testing.assert_close(torch.cat(ours.logits), torch.cat(plain.logits), rtol=1e-3, atol=1e-3)
                assert (ours.reused.tokens > 80) == bool(place)
