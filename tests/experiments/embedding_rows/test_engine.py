"""The row cache in a real model: bit for bit what the whole table gives, and the model as it was afterwards."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kvsim.caches.rows import RowCacheState  # noqa: E402
from kvsim.engine.links.page_pool import EngineError  # noqa: E402
from kvsim.engine.model.loading import load_model  # noqa: E402
from kvsim.errors import KvsimError  # noqa: E402
from kvsim.experiments.embedding_rows.engine.cache import cached_embedding  # noqa: E402
from kvsim.experiments.embedding_rows.engine.link import make_row_link  # noqa: E402

BANDWIDTH_BYTES_PER_S = 5e8


def logits_of(model, ids) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor(ids)).logits


def generated(model, ids, new_tokens: int) -> list[list[int]]:
    """Return greedy tokens through transformers' own `generate`."""
    with torch.inference_mode():
        found = model.generate(
            torch.tensor(ids), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0, eos_token_id=None
        )
    return found.tolist()


@pytest.fixture(scope="module")
def untied_model(tiny_model):
    """Return the tiny model with a head of its own."""
    config = type(tiny_model.config)(**(tiny_model.config.to_dict() | {"tie_word_embeddings": False}))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return type(tiny_model)(config).eval()


@pytest.mark.parametrize("policy", ["lru", "sieve", "second-touch"])
@pytest.mark.parametrize("capacity", [1, 5, 40, 256])
def test_every_call_gives_the_bits_of_the_whole_table(tiny_model, policy, capacity) -> None:
    """Batches, a token twice in one call, more distinct rows than slots, and calls that hit in part."""
    rng = np.random.default_rng(2)
    calls = [
        rng.integers(0, 60, shape).tolist() for shape in [(1, 1), (2, 7), (1, 30), (3, 20), (1, 1), (4, 1), (2, 40)]
    ]
    expected = [logits_of(tiny_model, ids) for ids in calls]
    state = RowCacheState(policy, capacity, num_rows=256)
    with cached_embedding(tiny_model, state, bandwidth_bytes_per_s=BANDWIDTH_BYTES_PER_S, chunk_rows=4) as cache:
        for ids, known in zip(calls, expected, strict=True):
            assert torch.equal(logits_of(tiny_model, ids), known)
            cache.fetch_ahead(rng.integers(0, 60, 9))
        cache.settle(None)
    counts, tally = state.counts, cache.tally
    assert (tally.read_rows, tally.demanded_rows) == (counts.hit_rows, counts.missed_rows)
    assert tally.early_rows == counts.prefetched_rows
    assert counts.tokens == sum(np.size(ids) for ids in calls)


def test_generate_gives_the_same_tokens_with_tied_weights_and_without(tiny_model, untied_model, tiny_gpt2) -> None:
    prompt = [[3, 7, 7, 20, 9, 3], [1, 2, 30, 40, 50, 60]]
    for model in (tiny_model, untied_model, tiny_gpt2):
        expected = generated(model, prompt, 12)
        with cached_embedding(
            model, RowCacheState("lru", 8, num_rows=256), bandwidth_bytes_per_s=BANDWIDTH_BYTES_PER_S
        ):
            assert generated(model, prompt, 12) == expected


def test_the_embedding_is_put_back_whatever_happens(tiny_model) -> None:
    plain, head = tiny_model.get_input_embeddings(), tiny_model.get_output_embeddings()
    data = plain.weight.data_ptr()
    with (
        pytest.raises(ZeroDivisionError),
        cached_embedding(tiny_model, RowCacheState("lru", 8, num_rows=256), bandwidth_bytes_per_s=1e9),
    ):
        assert tiny_model.get_input_embeddings() is not plain
        raise ZeroDivisionError
    assert tiny_model.get_input_embeddings() is plain
    assert tiny_model.get_output_embeddings() is head and head.weight is plain.weight
    assert plain.weight.data_ptr() == data


def test_a_row_fetched_ahead_is_there_when_it_is_read(tiny_model) -> None:
    state = RowCacheState("lru", 16, num_rows=256)
    with cached_embedding(tiny_model, state, bandwidth_bytes_per_s=5e6, chunk_rows=2) as cache:  # slow: still under way
        cache.fetch_ahead(np.arange(10))
        assert torch.equal(cache.embed(np.array([9, 0, 4])), cache.table[[9, 0, 4]])
    assert (state.counts.hit_rows, state.counts.missed_rows, state.counts.used_prefetched_rows) == (3, 0, 3)


def test_a_row_that_left_while_it_travelled_harms_nobody(tiny_model) -> None:
    state = RowCacheState("lru", 2, num_rows=256)
    with cached_embedding(tiny_model, state, bandwidth_bytes_per_s=1e6, chunk_rows=1) as cache:
        cache.fetch_ahead(np.array([1, 2]))
        for rows in ([5, 6], [5, 2], [1, 5], [2, 1], [6, 2]):
            assert torch.equal(cache.embed(np.array(rows)), cache.table[rows])


def test_a_slot_that_holds_another_row_is_found_out(tiny_model) -> None:
    with cached_embedding(tiny_model, RowCacheState("lru", 4, num_rows=256), bandwidth_bytes_per_s=1e9) as cache:
        cache.embed(np.array([1, 2]))
        cache.insert(np.array([9]), np.array([1]), cache.table[:1])
        with pytest.raises(EngineError, match=r"row 2 is not in slot 1, which holds 9"):
            cache.embed(np.array([1, 2]))


def test_a_fresh_start_forgets_every_row(tiny_model) -> None:
    with cached_embedding(tiny_model, RowCacheState("lru", 4, num_rows=256), bandwidth_bytes_per_s=1e9) as cache:
        cache.embed(np.array([1, 2]))
        cache.fetch_ahead(np.array([3]))
        cache.restart(RowCacheState("lru", 4, num_rows=256))
        assert torch.equal(cache.embed(np.array([1, 3])), cache.table[[1, 3]])
        assert cache.state.counts.missed_rows == 2


def test_what_cannot_be_swapped_is_refused_in_one_line(tiny_model) -> None:
    state = RowCacheState("lru", 4, num_rows=256)
    with (
        pytest.raises(KvsimError, match="the emulated link needs bandwidth_bytes_per_s"),
        cached_embedding(tiny_model, state),
    ):
        pass
    with (
        cached_embedding(tiny_model, state, bandwidth_bytes_per_s=1e9),
        pytest.raises(KvsimError, match="is a CachedEmbedding, not a plain table"),
        cached_embedding(tiny_model, state, bandwidth_bytes_per_s=1e9),
    ):
        pass
    with (
        pytest.raises(KvsimError, match=r"has 256 rows, the cache state has 100"),
        cached_embedding(tiny_model, RowCacheState("lru", 4, num_rows=100), bandwidth_bytes_per_s=1e9),
    ):
        pass
    assert type(tiny_model.get_input_embeddings()) is torch.nn.Embedding


def test_the_emulated_link_holds_rows_to_its_bandwidth() -> None:
    table = torch.arange(4000, dtype=torch.float32).view(100, 40)
    link = make_row_link(table, torch.device("cpu"), 160 * 100 / 0.05)
    staged = link.staging(100).copy_(table)
    flight = link.send(staged, "demand")
    assert not flight.is_done
    assert flight.wait() == 100 and flight.is_done
    assert torch.equal(flight.rows, table)
    link.close()


@pytest.mark.gpu
def test_on_a_gpu_the_table_leaves_unless_the_head_shares_it(tiny_model, untied_model) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    for model, stays in ((tiny_model, True), (untied_model, False)):
        model.to("cuda")
        ids = torch.tensor([[3, 7, 7, 20], [1, 2, 30, 3]], device="cuda")
        with torch.inference_mode():
            expected = model(ids).logits
            plain = model.get_input_embeddings()
            with cached_embedding(model, RowCacheState("lru", 8, num_rows=256)) as cache:
                assert plain.weight.is_cuda is stays and cache.table.is_pinned()
                assert torch.equal(model(ids).logits, expected)
        assert plain.weight.is_cuda
        model.to("cpu")


@pytest.mark.model
def test_the_trained_model_answers_the_same(model_path) -> None:
    model, tokenizer = load_model(model_path, "bf16")
    ids = tokenizer("The embedding table of a language model holds a row for every token.")["input_ids"]
    expected, known = generated(model, [ids], 8), logits_of(model, [ids])
    state = RowCacheState("lru", 24, num_rows=model.config.vocab_size)
    with cached_embedding(model, state, bandwidth_bytes_per_s=BANDWIDTH_BYTES_PER_S):
        assert torch.equal(logits_of(model, [ids]), known)
        assert generated(model, [ids], 8) == expected
    assert state.counts.hit_rows and state.counts.missed_rows


def test_the_example_of_the_page_runs_as_it_is_printed(tiny_model, capsys) -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "embedding-rows.md"
    (block,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ids = torch.tensor([[5, 9, 5]])
    names = {"model": tiny_model, "inputs": {"input_ids": ids, "attention_mask": torch.ones_like(ids)}}
    exec(compile(block, str(page), "exec"), names)
    assert "hit_rows=" in capsys.readouterr().out
    assert type(tiny_model.get_input_embeddings()) is torch.nn.Embedding
