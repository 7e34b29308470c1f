from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from kvsim.scenario.shipped import shipped
from kvsim.traces import LayerParameters, open_trace
from kvsim.traces.access.header import TraceHeader

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "traces.md").read_text()


@pytest.fixture(scope="module")
def read_trace():
    """The reader that the page prints, run as it stands."""
    (block,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    space: dict = {}
    exec(block, space)
    return space["read_trace"]


@pytest.mark.parametrize("path", shipped("captures", ".kvtrace").values(), ids=lambda path: path.stem)
def test_the_printed_reader_reads_what_open_trace_reads(read_trace, path):
    header, context_tokens, channels = read_trace(path)
    trace = open_trace(path)
    assert header["prompt_tokens"] == list(trace.header.prompt_tokens)
    for step in (0, trace.num_steps - 1):
        assert context_tokens[step].tolist() == trace.context_tokens(step).tolist()
        pages = -(-int(context_tokens[step].max()) // 32)
        quest = channels["estimate:quest@32"][step, :, 7, :pages]
        np.testing.assert_array_equal(quest, trace.scores(step, 7, "estimate:quest", 32))
        units = -(-int(context_tokens[step].max()) // 16)
        np.testing.assert_array_equal(channels["mass"][step, :, 7, :units], trace.mass(step, 7, 16))


def test_the_printed_reader_reads_a_batch_and_its_selections(read_trace, tmp_path, header_of, write_random):
    path = tmp_path / "small.kvtrace"
    written = write_random(path, header_of())
    _, context_tokens, channels = read_trace(path)
    assert context_tokens.tolist() == [[71 + step, 41 + step] for step in range(4)]
    bits = np.unpackbits(channels["selection@32"][2], axis=-1, bitorder="little")
    wanted = written[2]["selection@32"]
    np.testing.assert_array_equal(bits[..., : wanted.shape[-1]], wanted)


def test_every_key_of_the_header_and_every_kind_of_channel_is_in_the_docs():
    for name in TraceHeader.model_fields:
        assert f"`{name}`" in DOCS, name
    for name in ("mass", "estimate:NAME@P", "speculate:NAME@P", "selection@P"):
        assert f"`{name}`" in DOCS


def test_every_parameter_of_the_generator_is_in_the_docs():
    for name in LayerParameters.model_fields:
        stem = name.removesuffix("_nats")
        assert stem in DOCS, name
