"""Captured traces against eager attention, plain SDPA and the model's own layers, on a tiny random model."""

from __future__ import annotations

import hashlib
from pydoc_data.topics import topics

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transformers import DynamicCache, LlamaForCausalLM  # noqa: E402
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb  # noqa: E402

from kvsim.engine.capture.capture import (  # noqa: E402
    CaptureOrigin,
    CaptureRequest,
    capture,
    capture_bytes,
    capture_file,
    trace_bytes,
)
from kvsim.engine.capture.recorder import StepRecorder, recording  # noqa: E402
from kvsim.engine.model.forward import CACHE_ARGUMENT  # noqa: E402
from kvsim.engine.model.loading import shape_of  # noqa: E402
from kvsim.errors import KvsimError, TraceError  # noqa: E402
from kvsim.traces.access.file import TraceWriter, open_trace  # noqa: E402

PROMPT, STEPS = 75, 40  # the open page fills twice, of 16 and of 32 tokens
CHANNELS = ("estimate:quest@32", "estimate:mean@32", "speculate:next-layer@32", "estimate:quest@16")
ORIGIN = CaptureOrigin(model="tiny", text="made up", recipe="kvsim capture")
HALF = 2**-11  # one rounding to f16, relative


def some_text(tokens: int = 400) -> str:
    letters = torch.randint(32, 127, (tokens,), generator=torch.Generator().manual_seed(11))
    return "".join(chr(code) for code in letters.tolist())


def tokens_of(text: str):
    return torch.tensor([[ord(letter) for letter in text]])


def request(**changes) -> CaptureRequest:
    return CaptureRequest(**{"prompt_tokens": PROMPT, "decode_tokens": STEPS, "channels": CHANNELS} | changes)


@pytest.fixture(scope="module")
def trace(tiny_model, tiny_tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("captures") / "tiny.kvtrace"
    capture(tiny_model, tiny_tokenizer, some_text(), path, request(chunk_tokens=32), origin=ORIGIN)
    return open_trace(path)


@pytest.fixture(scope="module")
def eager(tiny_model):
    """Return each layer's attention over all tokens at once, as transformers' own eager attention has it."""
    model = LlamaForCausalLM(tiny_model.config.__class__.from_dict(tiny_model.config.to_dict()))
    model.load_state_dict(tiny_model.state_dict())
    model.eval().set_attn_implementation("eager")
    with torch.inference_mode():
        output = model(tokens_of(some_text()[: PROMPT + STEPS]), output_attentions=True)
    return [weights[0] for weights in output.attentions]  # each [num_heads, tokens, tokens]


def decode(model, recorder_channels=CHANNELS):
    """Run the teacher-forced capture by hand; yield (position, cache, logits, values) after each step."""
    tokens, cache = tokens_of(some_text()), DynamicCache(config=model.config)
    with torch.inference_mode():
        model(tokens[:, :PROMPT], **{CACHE_ARGUMENT: cache})
        recorder = StepRecorder(model, recorder_channels, PROMPT + STEPS)
        recorder.begin(cache.layers)
        with recording(model, recorder) as arguments:
            for position in range(PROMPT, PROMPT + STEPS):
                recorder.begin_step()
                token = tokens[:, position : position + 1]
                logits = model(token, **{CACHE_ARGUMENT: cache}, **arguments).logits[0, -1]
                yield position, cache, logits, recorder.values()


def test_trace_says_what_was_read_and_how(trace, tiny_model):
    header = trace.header
    assert (header.model, header.text, header.recipe) == ("tiny", "made up", "kvsim capture")
    assert header.shape == shape_of(tiny_model)
    assert header.recorded == "teacher-forced"
    assert header.compute_dtype == "fp32"
    assert header.prompt_tokens == (PROMPT,)
    assert trace.num_steps == STEPS
    assert [int(trace.context_tokens(step)[0]) for step in range(STEPS)] == list(range(PROMPT + 1, PROMPT + STEPS + 1))


def test_mass_of_every_layer_and_step_sums_to_one(trace):
    for step in range(STEPS):
        for layer in range(trace.num_layers):
            assert trace.mass(step, layer, 16).astype(np.float64).sum() == pytest.approx(1, abs=1e-3)


def test_mass_equals_the_attentions_that_transformers_returns(trace, eager):
    for step in range(STEPS):
        context = PROMPT + step + 1
        for layer, weights in enumerate(eager):
            row = weights[:, context - 1, :context].mean(0).numpy()
            units = np.add.reduceat(row, np.arange(0, context, 16))
            np.testing.assert_allclose(trace.mass(step, layer, 16)[0], units, rtol=2 * HALF, atol=1e-6)


def test_the_attention_compared_with_is_far_from_even(eager):
    """Guards the test above: were every unit alike, any mix-up of tokens, heads or layers would pass it."""
    row = eager[1][:, PROMPT, :64].mean(0).reshape(4, 16).sum(1)
    assert row.max() > 1.5 * row.min()


def test_estimates_follow_from_the_query_and_the_cached_keys(tiny_model, trace):
    queries = {}
    attention = tiny_model.model.layers[2].self_attn

    def keep(module, arguments, named):
        query = attention.q_proj(named["hidden_states"]).view(1, 1, -1, 16).transpose(1, 2)
        queries["now"] = apply_rotary_pos_emb(query, query, *named["position_embeddings"])[0][0, :, 0]

    hook = attention.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for position, cache, _, _ in decode(tiny_model):
            keys = cache.layers[2].keys[0]  # [2, tokens, 16]
            for name, page_tokens, score in (("quest", 32, most), ("quest", 16, most), ("mean", 32, product_with_mean)):
                logits = torch.stack([score(queries["now"], page) for page in keys.split(page_tokens, dim=1)], 1) / 4
                recorded = trace.scores(position - PROMPT, 2, f"estimate:{name}", page_tokens)[0]
                np.testing.assert_allclose(recorded, logits.softmax(-1).mean(0), rtol=2 * HALF, atol=1e-6)
    finally:
        hook.remove()


def product_with_mean(query, page):
    """Return for each query head the dot product with the mean of the page's keys."""
    return (query * page.mean(1).repeat_interleave(2, 0)).sum(-1)


def most(query, page):
    """Return for each query head the sum over dimensions of the larger product with the page's extremes."""
    low, high = (part.repeat_interleave(2, 0) for part in (page.amin(1), page.amax(1)))
    return torch.maximum(query * low, query * high).sum(-1)


def test_speculation_says_nothing_of_the_first_layer_and_sums_to_one_elsewhere(trace):
    for step in range(STEPS):
        assert not trace.scores(step, 0, "speculate:next-layer", 32).any()
        for layer in range(1, trace.num_layers):
            scores = trace.scores(step, layer, "speculate:next-layer", 32).astype(np.float64)
            assert scores.sum() == pytest.approx(1, abs=2e-3)


def test_speculation_uses_the_layers_own_projection_on_the_state_entering_the_layer_before(tiny_model, trace):
    states = {}
    hook = tiny_model.model.layers[0].register_forward_pre_hook(
        lambda module, arguments, named: states.update(hidden=arguments[0], rotary=named["position_embeddings"]),
        with_kwargs=True,
    )
    layer = tiny_model.model.layers[1]
    try:
        for position, cache, _, _ in decode(tiny_model):
            query = layer.self_attn.q_proj(layer.input_layernorm(states["hidden"])).view(1, 1, -1, 16).transpose(1, 2)
            query = apply_rotary_pos_emb(query, query, *states["rotary"])[0][0, :, 0]
            known = cache.layers[1].keys[0][:, :-1]  # the new token's key was yet to come
            expected = (torch.stack([most(query, page) for page in known.split(32, dim=1)], 1) / 4).softmax(-1).mean(0)
            recorded = trace.scores(position - PROMPT, 1, "speculate:next-layer", 32)[0]
            np.testing.assert_allclose(recorded[: len(expected)], expected.numpy(), rtol=2 * HALF, atol=1e-6)
            assert not recorded[len(expected) :].any()
    finally:
        hook.remove()


def test_recording_does_not_change_the_logits_and_leaves_the_model_as_it_was(tiny_model):
    tokens = tokens_of(some_text()[: PROMPT + STEPS])
    before = tiny_model.config._attn_implementation
    recorded = torch.stack([logits for _, _, logits, _ in decode(tiny_model)])
    assert tiny_model.config._attn_implementation == before == "sdpa"
    assert not any(layer._forward_pre_hooks for layer in tiny_model.model.layers)
    with torch.inference_mode():
        plain = tiny_model(tokens).logits[0, PROMPT:]
    torch.testing.assert_close(recorded, plain, atol=1e-4, rtol=1e-4)


def test_the_size_of_a_prefill_chunk_changes_nothing(tiny_model, tiny_tokenizer, trace, tmp_path):
    path = tmp_path / "whole.kvtrace"
    capture(tiny_model, tiny_tokenizer, some_text(), path, request(chunk_tokens=512), origin=ORIGIN)
    whole = open_trace(path)
    for name in trace.channels:
        page_tokens = 32
        for layer in range(trace.num_layers):
            ours, theirs = (source.scores(STEPS - 1, layer, name, page_tokens) for source in (trace, whole))
            np.testing.assert_allclose(ours, theirs, rtol=4 * HALF, atol=1e-6)


def captured_bytes(model, tokenizer, path, text=None, **changes) -> bytes:
    capture(model, tokenizer, text or some_text(), path, request(**changes), origin=ORIGIN)
    return path.read_bytes()


def test_sampling_repeats_with_its_seed_and_changes_with_another(tiny_model, tiny_tokenizer, tmp_path):
    first, again, other, colder, greedy, forced = (
        captured_bytes(tiny_model, tiny_tokenizer, tmp_path / str(number), **changes)
        for number, changes in enumerate(
            [
                {"temperature": 1.0, "seed": 3},
                {"temperature": 1.0, "seed": 3},
                {"temperature": 1.0, "seed": 4},
                {"temperature": 0.5, "seed": 3},
                {"temperature": 0.0},
                {},
            ]
        )
    )
    assert first == again
    assert len({first, other, colder, greedy, forced}) == 5
    assert open_trace(tmp_path / "0").header.recorded == "sampled"
    assert open_trace(tmp_path / "4").header.recorded == "greedy"


def test_sampling_reads_only_the_prompt_of_the_text(tiny_model, tiny_tokenizer, tmp_path):
    captured_bytes(tiny_model, tiny_tokenizer, tmp_path / "a", text=some_text(PROMPT), temperature=1.0)
    assert open_trace(tmp_path / "a").num_steps == STEPS


@pytest.mark.parametrize("temperature", [0.0, 1e-4])
def test_the_model_never_ends_the_text(tiny_model, tiny_tokenizer, tmp_path, monkeypatch, temperature):
    with torch.inference_mode():
        likeliest = int(tiny_model(tokens_of(some_text(PROMPT))).logits[0, -1].argmax())
    free = captured_bytes(tiny_model, tiny_tokenizer, tmp_path / "free", temperature=temperature)
    monkeypatch.setattr(tiny_model.generation_config, "eos_token_id", [likeliest])
    assert captured_bytes(tiny_model, tiny_tokenizer, tmp_path / "held", temperature=temperature) != free


def test_a_text_too_short_is_told_how_many_tokens_it_has(tiny_model, tiny_tokenizer, tmp_path):
    path = tmp_path / "short.kvtrace"
    with pytest.raises(KvsimError, match=r"made up: it has 114 tokens, 115 are needed") as caught:
        captured_bytes(tiny_model, tiny_tokenizer, path, text=some_text(114))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    captured_bytes(tiny_model, tiny_tokenizer, path, text=some_text(115))


def test_more_tokens_than_the_model_has_positions_are_refused(tiny_model, tiny_tokenizer, tmp_path):
    with pytest.raises(KvsimError, match=r"tokens of prompt and \d+ decoded: 513 tokens, the model reads 512"):
        captured_bytes(tiny_model, tiny_tokenizer, tmp_path / "a", text=some_text(600), prompt_tokens=473)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": ("estimate:guess@32",)}, "estimate:quest@P"),
        ({"channels": ("estimate:quest",)}, "estimate:quest@P"),
        ({"channels": ("estimate:quest@24",)}, "multiple of 16"),
        ({"channels": ("estimate:quest@0",)}, "multiple of 16"),
        ({"channels": ("estimate:quest@32", "estimate:quest@32")}, "named twice"),
        ({"decode_tokens": 0}, "decode-tokens must be at least 1"),
        ({"prompt_tokens": 0}, "prompt-tokens must be at least 1"),
        ({"temperature": -1.0}, "temperature must be 0 or more"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_the_model_runs(changes, words):
    with pytest.raises(KvsimError, match=words):
        request(**changes)


def test_an_interruption_leaves_no_file_and_the_model_as_it_was(tiny_model, tiny_tokenizer, tmp_path):
    def stop(stage, done, total):
        if stage == "decode" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(tiny_model, tiny_tokenizer, some_text(), tmp_path / "a", request(), origin=ORIGIN, progress=stop)
    assert not list(tmp_path.iterdir())
    assert tiny_model.config._attn_implementation == "sdpa"
    assert not any(layer._forward_pre_hooks for layer in tiny_model.model.layers)


def test_a_step_that_cannot_be_written_leaves_no_file_and_the_model_as_it_was(
    tiny_model, tiny_tokenizer, tmp_path, monkeypatch
):
    def full(self, context_tokens, values):
        raise TraceError(self.path, "cannot be written: No space left on device")

    monkeypatch.setattr(TraceWriter, "append", full)
    with pytest.raises(TraceError, match="No space left") as caught:
        captured_bytes(tiny_model, tiny_tokenizer, tmp_path / "a")
    assert not list(tmp_path.iterdir())
    assert tiny_model.config._attn_implementation == "sdpa", f"while {caught.value!r} still holds its frames"


def test_a_folder_that_is_not_there_is_one_line(tiny_model, tiny_tokenizer, tmp_path):
    with pytest.raises(TraceError, match="cannot be written"):
        captured_bytes(tiny_model, tiny_tokenizer, tmp_path / "none" / "a")


def test_progress_counts_every_token_once_per_stage(tiny_model, tiny_tokenizer, tmp_path):
    told = []
    capture(
        tiny_model,
        tiny_tokenizer,
        some_text(),
        tmp_path / "a",
        request(chunk_tokens=32),
        origin=ORIGIN,
        progress=lambda *now: told.append(now),
    )
    assert told[:3] == [("prefill", 32, PROMPT), ("prefill", 64, PROMPT), ("prefill", PROMPT, PROMPT)]
    assert told[3:] == [("decode", step + 1, STEPS) for step in range(STEPS)]


def test_sizes_are_known_before_the_run(tiny_model, tiny_tokenizer, tmp_path):
    size = len(captured_bytes(tiny_model, tiny_tokenizer, tmp_path / "a"))
    assert size - 4096 < trace_bytes(shape_of(tiny_model), request()) < size
    small, large = (capture_bytes(shape_of(tiny_model), request(prompt_tokens=tokens)) for tokens in (75, 400))
    kv_bytes = 2 * 2 * 16 * 4 * 3 * 325  # K and V, heads, dimensions, bytes, layers, tokens more
    assert large - small > kv_bytes
    assert small > shape_of(tiny_model).weights_bytes


def test_a_file_is_captured_as_its_text_is_and_the_sizes_are_told_before(
    tiny_model, tiny_tokenizer, tiny_model_path, tmp_path
):
    text = tmp_path / "some.txt"
    text.write_bytes(some_text().encode())
    told = []
    capture_file(
        tiny_model_path,
        text,
        tmp_path / "file",
        request(),
        recipe="again",
        announce=lambda *sizes: told.append(sizes),
        progress=lambda *now: told.append(now),
    )
    assert told[0] == (capture_bytes(shape_of(tiny_model), request()), trace_bytes(shape_of(tiny_model), request()))
    assert told[1][0] == "prefill"
    trace = open_trace(tmp_path / "file")
    assert (trace.header.model, trace.header.text, trace.header.recipe) == ("tiny", "some.txt", "again")
    assert trace.header.text_sha256 == hashlib.sha256(text.read_bytes()).hexdigest()
    capture(tiny_model, tiny_tokenizer, some_text(), tmp_path / "direct", request(), origin=ORIGIN)
    direct = open_trace(tmp_path / "direct")
    np.testing.assert_array_equal(trace.mass(STEPS - 1, 2, 16), direct.mass(STEPS - 1, 2, 16))


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read"), (b"abc\xff", "not UTF-8 text, byte 3")])
def test_a_text_that_cannot_be_read_is_one_line(tiny_model_path, tmp_path, content, words):
    text = tmp_path / "some.txt"
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(KvsimError, match=words):
        capture_file(tiny_model_path, text, tmp_path / "file", request())


@pytest.mark.model
def test_the_trained_model_attends_to_the_first_page_in_deep_layers_and_not_in_early_ones(model_path, tmp_path):
    text = tmp_path / "topics.txt"
    text.write_text("\n\n".join(topics[name] for name in sorted(topics)))
    few = CaptureRequest(prompt_tokens=512, decode_tokens=4)
    capture_file(model_path, text, tmp_path / "file", few)
    trace = open_trace(tmp_path / "file")
    sink = [np.mean([trace.mass(step, layer, 16)[0, 0] for step in range(4)]) for layer in range(30)]
    assert np.mean(sink[12:]) > 0.2 > 0.1 > np.mean(sink[:12])
