"""A capture records the attention that transformers itself returns, and the engine sees the scores that it records."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transformers import DynamicCache  # noqa: E402

from kvsim.engine.capture.capture import CaptureOrigin, CaptureRequest, capture  # noqa: E402
from kvsim.engine.model.forward import CACHE_ARGUMENT  # noqa: E402
from kvsim.engine.model.layers import paged_layers, state_layers  # noqa: E402
from kvsim.engine.paged.prefill import prefill  # noqa: E402
from kvsim.policies.selectors import TopK  # noqa: E402
from kvsim.traces.access.file import open_trace  # noqa: E402
from tests.engine.decoding import input_for, record  # noqa: E402

PROMPT_TOKENS, NUM_STEPS = 60, 6
QUEST, NEXT_LAYER = "estimate:quest", "speculate:next-layer"
TEXT = "".join(chr(33 + number * number % 90) for number in range(PROMPT_TOKENS + NUM_STEPS))


@pytest.fixture(scope="module")
def trace(model, tiny_tokenizer, tmp_path_factory):
    """Return a capture of a model, with the scores that selectors and speculation see."""
    path = tmp_path_factory.mktemp("captures") / "tiny.kvtrace"
    request = CaptureRequest(
        prompt_tokens=PROMPT_TOKENS, decode_tokens=NUM_STEPS, channels=(f"{QUEST}@16", f"{NEXT_LAYER}@16")
    )
    capture(model, tiny_tokenizer, TEXT, path, request, origin=CaptureOrigin(model="tiny", text="made up"))
    return open_trace(path)


@pytest.fixture(scope="module")
def ids(tiny_tokenizer):
    return torch.tensor([tiny_tokenizer(TEXT)["input_ids"]])


def test_the_mass_is_the_attention_that_eager_returns(model, trace, ids):
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        cache = DynamicCache(config=model.config)
        with torch.inference_mode():
            model(ids[:, :PROMPT_TOKENS], **{CACHE_ARGUMENT: cache})
            for step in range(NUM_STEPS):
                position = PROMPT_TOKENS + step
                fed = ids[:, position : position + 1]
                attentions = model(fed, **{CACHE_ARGUMENT: cache}, output_attentions=True).attentions
                attending = [place for place in range(len(cache.layers)) if place not in state_layers(model.config)]
                for layer, place in enumerate(paged_layers(model.config)):
                    tokens = attentions[attending.index(place)][0, :, -1].double().mean(0)
                    by_page = torch.nn.functional.pad(tokens, (0, -len(tokens) % 16)).view(-1, 16).sum(1)
                    # What a sink takes is no token's: the mass is the tokens' share of the rest.
                    expected = (by_page / by_page.sum()).numpy()
                    np.testing.assert_allclose(trace.mass(step, layer, 16)[0], expected, atol=1e-3)
    finally:
        model.set_attn_implementation(before)


def test_the_engine_sees_the_scores_and_the_speculation_that_a_capture_records(model, trace, ids, tmp_path):
    snapshot = prefill(model, ids[:, :PROMPT_TOKENS], room_tokens=NUM_STEPS)
    everything = TopK(k_pages=8, sink_pages=0, recent_pages=0)
    given = input_for(snapshot, "resident", num_steps=NUM_STEPS, pages_per_layer=1, selector=everything)
    given = dataclasses.replace(given, records_speculation=True)
    engine, _ = record(model, snapshot, given, tmp_path / "engine.kvtrace", forced_tokens=ids[:, PROMPT_TOKENS:])
    for step in range(NUM_STEPS):
        for layer in range(engine.num_layers):
            for channel in (QUEST, NEXT_LAYER):
                ours, captured = (one.scores(step, layer, channel, 16) for one in (engine, trace))
                np.testing.assert_allclose(ours, captured, rtol=5e-3, atol=5e-4)
            ours, captured = (one.mass(step, layer, 16) for one in (engine, trace))
            np.testing.assert_allclose(ours, captured, atol=1e-3)
