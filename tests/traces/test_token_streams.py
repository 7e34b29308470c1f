"""Token streams: files that read back as written, files that lie, and what is fitted to them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kvsim.errors import TraceError
from kvsim.experiments.embedding_rows.bigrams import fit_bigrams
from kvsim.scenario.shipped import TOKENS_SUFFIX, find_tokens, shipped
from kvsim.traces.tokens.stream import StreamHeader, read_token_stream, write_token_stream, zipf_exponent, zipf_tokens

HEADER = StreamHeader(vocab_size=10, tokenizer="t", source="s", licence="l", recipe="r")


@pytest.mark.parametrize("name", ["s.jsonl", "s.jsonl.gz"])
def test_a_stream_reads_back_as_it_was_written(tmp_path, name) -> None:
    documents = [np.array([1, 2, 3]), np.array([], dtype=np.int64), np.array([9])]
    for place in (tmp_path / name, tmp_path / f"again-{name}"):
        write_token_stream(place, HEADER, documents)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()
    stream = read_token_stream(tmp_path / name)
    assert stream.header == HEADER
    assert stream.tokens.tolist() == [1, 2, 3, 9]
    assert stream.starts.tolist() == [0, 3, 3, 4]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([], "no tokens; the first line is a header"),
        ([{"vocab_size": 10}], "no tokens; the first line is a header"),
        ([{"vocab_size": 0}], ":1: the header's vocab_size should be from 1"),
        ([{"vocab_size": True}], ":1: the header's vocab_size should be from 1"),
        ([{"vocab_size": 10, "licence": 3}], ":1: the header's licence should be text, found 3"),
        ([{"vocab_size": 10}, {"tokens": [1, 10]}], ":2: token 10: the header's vocabulary is 0 to 9"),
        ([{"vocab_size": 10}, {"tokens": [-1]}], ":2: token -1"),
        ([{"vocab_size": 10}, {"tokens": [1.5]}], ":2: should be "),
        ([{"vocab_size": 10}, {"tokens": "12"}], ":2: should be "),
        ([{"vocab_size": 10}, [1]], ":2: should be a JSON object, found list"),
    ],
)
def test_a_stream_that_lies_is_told_with_file_and_line(tmp_path, lines, problem) -> None:
    file = tmp_path / "s.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(TraceError) as told:
        read_token_stream(file)
    assert str(told.value).startswith(f"{file}")
    assert problem in str(told.value)


def test_a_name_that_does_not_ship_gets_the_nearest() -> None:
    with pytest.raises(TraceError, match="no such token stream; did you mean 'python-docs'"):
        find_tokens("python-doc")


@pytest.mark.parametrize("name", shipped("captures", TOKENS_SUFFIX))
def test_a_shipped_stream_is_whole_small_and_says_how_to_make_it_again(name) -> None:
    path = find_tokens(name)
    stream = read_token_stream(path)
    assert stream.tokens.size > 100_000
    assert path.stat().st_size < 500_000
    assert stream.header.licence and stream.header.recipe.startswith("python -m kvsim.")


@pytest.mark.model
def test_the_shipped_stream_decodes_to_the_text_it_names(model_path) -> None:
    transformers = pytest.importorskip("transformers")
    topics = pytest.importorskip("pydoc_data.topics").topics
    stream = read_token_stream(find_tokens("python-docs"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path, local_files_only=True)
    first = tokenizer.decode(stream.tokens[: stream.starts[1]])
    assert first.split()[:3] == topics[min(topics)].split()[:3]  # other versions of Python word the rest otherwise


@pytest.mark.parametrize("exponent", [0.7, 1.1, 1.6])
def test_the_exponent_of_a_drawn_stream_is_found_again(exponent) -> None:
    tokens = zipf_tokens(exponent, vocab_size=500, num_tokens=200_000, seed=3)
    assert tokens.max() < 500
    assert zipf_exponent(tokens, 500) == pytest.approx(exponent, abs=0.02)


def test_bigrams_are_the_most_frequent_followers() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 6, 400)
    bigrams = fit_bigrams(tokens, vocab_size=7, most=2)
    for token in range(7):
        followers = tokens[1:][tokens[:-1] == token]
        counts = np.bincount(followers, minlength=7)
        known = sorted((follower for follower in range(7) if counts[follower]), key=lambda f: (-counts[f], f))
        assert bigrams.after(np.array([token])).tolist() == known[:2]


def test_recall_counts_tokens_that_were_among_those_expected() -> None:
    bigrams = fit_bigrams(np.array([1, 2, 1, 2, 1, 3]), vocab_size=5, most=1)
    assert bigrams.recall_frac(np.array([1, 2, 1, 3, 1])) == pytest.approx(2 / 4)
