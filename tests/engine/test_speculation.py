"""What a layer predicts of the next while pages are read: the numbers of a capture, and choices made by them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kvsim.engine.capture.capture import CaptureOrigin, CaptureRequest, capture  # noqa: E402
from kvsim.engine.paged.host_queries import host_queries  # noqa: E402
from kvsim.engine.paged.prefill import prefill  # noqa: E402
from kvsim.policies.selectors import TopK  # noqa: E402
from kvsim.traces import open_trace  # noqa: E402
from kvsim.traces.access.base import NEXT_LAYER  # noqa: E402
from tests.engine.decoding import PAGE_TOKENS, cache_of, generate, input_for, record, snapshot_of  # noqa: E402

PROMPT, STEPS = 75, 40  # pages open at 80, 96 and 112
EVERY_PAGE = TopK(k_pages=100, sink_pages=0, recent_pages=0)
FEW_PAGES = TopK(k_pages=2, sink_pages=1, recent_pages=0)
ONE_ROUNDING = 2**-10  # of f16, relative


@pytest.fixture(scope="module")
def letters():
    drawn = torch.randint(32, 127, (200,), generator=torch.Generator().manual_seed(11))
    return "".join(chr(code) for code in drawn.tolist())


@pytest.fixture(params=["tiny_model", "tiny_gpt2"])
def model(request):
    return request.getfixturevalue(request.param)


def recorded(model, snapshot, path, *, channel, selector, forced=None):
    given = input_for(snapshot, "resident", num_steps=STEPS, pages_per_layer=1, selector=selector, channel=channel)
    given = dataclasses.replace(given, records_speculation=True)
    return record(model, snapshot, given, path, forced_tokens=forced)[0]


@pytest.mark.parametrize("channel", ["estimate:quest", "estimate:mean", NEXT_LAYER])
def test_live_speculation_is_what_a_capture_records(model, tiny_tokenizer, letters, tmp_path, channel):
    asked = CaptureRequest(prompt_tokens=PROMPT, decode_tokens=STEPS, channels=(f"{NEXT_LAYER}@{PAGE_TOKENS}",))
    origin = CaptureOrigin(model="tiny", text="made up")
    capture(model, tiny_tokenizer, letters, tmp_path / "captured.kvtrace", asked, origin=origin)
    captured = open_trace(tmp_path / "captured.kvtrace")

    ids = torch.tensor([[ord(letter) for letter in letters[: PROMPT + STEPS]]])
    snapshot = prefill(model, ids[:, :PROMPT], room_tokens=STEPS)
    live = recorded(
        model, snapshot, tmp_path / "live.kvtrace", channel=channel, selector=EVERY_PAGE, forced=ids[:, PROMPT:]
    )
    tolerance = 0.1 if host_queries(model) is not None else ONE_ROUNDING  # 8 bits of weights
    for step in range(STEPS):
        assert not live.scores(step, 0, NEXT_LAYER, PAGE_TOKENS).any()
        for layer in range(1, live.num_layers):
            found = live.scores(step, layer, NEXT_LAYER, PAGE_TOKENS)
            expected = captured.scores(step, layer, NEXT_LAYER, PAGE_TOKENS)
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=1e-6)
            if (PROMPT + step) % PAGE_TOKENS == 0:
                assert found[0, -1] == 0  # the page that this token will open


def test_sequences_of_a_batch_are_predicted_as_they_are_alone(model, tmp_path):
    both = snapshot_of(model, prompt_tokens=PROMPT, num_steps=STEPS, num_sequences=2)
    forced = torch.randint(3, 256, (2, STEPS), generator=torch.Generator().manual_seed(5))
    together = recorded(
        model, both, tmp_path / "two.kvtrace", channel="estimate:quest", selector=EVERY_PAGE, forced=forced
    )
    for sequence in (0, 1):
        alone = dataclasses.replace(both, tokens=both.tokens[sequence : sequence + 1].clone())
        trace = recorded(
            model,
            alone,
            tmp_path / f"{sequence}.kvtrace",
            channel="estimate:quest",
            selector=EVERY_PAGE,
            forced=forced[sequence : sequence + 1],
        )
        for step in (0, 5, STEPS - 1):
            found = together.scores(step, 2, NEXT_LAYER, PAGE_TOKENS)[sequence]
            expected = trace.scores(step, 2, NEXT_LAYER, PAGE_TOKENS)[0]
            np.testing.assert_allclose(found, expected, rtol=2 * ONE_ROUNDING, atol=1e-6)


def test_selecting_by_speculation_reads_what_was_predicted_and_the_first_pages_of_layer_0(tiny_model, tmp_path):
    snapshot = snapshot_of(tiny_model, prompt_tokens=PROMPT, num_steps=STEPS)
    trace = recorded(tiny_model, snapshot, tmp_path / "run.kvtrace", channel=NEXT_LAYER, selector=FEW_PAGES)
    assert trace.channels == ("mass", NEXT_LAYER)
    middle_was_chosen = 0
    for step in range(STEPS):
        for layer in range(3):
            scores = trace.scores(step, layer, NEXT_LAYER, PAGE_TOKENS)[0]
            read = np.flatnonzero(trace.selection(step, layer, PAGE_TOKENS)[0])
            np.testing.assert_array_equal(read, FEW_PAGES.select(scores, scores.size))
            if layer == 0:
                np.testing.assert_array_equal(read, [0, 1, 2, scores.size - 1])
            middle_was_chosen += layer > 0 and not np.array_equal(read[:3], [0, 1, 2])
    assert middle_was_chosen > 0


@pytest.mark.parametrize("policy", ["resident", "tests.speculative:Speculative"])
def test_generate_can_select_and_prefetch_by_speculation(model, policy):
    ids = torch.randint(3, 256, (2, PROMPT), generator=torch.Generator().manual_seed(3))
    overrides = (f"selector.channel={NEXT_LAYER}", "selector.k_pages=1", f'run.policies=["{policy}"]')
    with cache_of(model, *overrides, pages=6, batch=2, policy=policy, max_tokens=PROMPT + STEPS) as cache:
        generate(model, ids, cache, max_new_tokens=STEPS)
        report = cache.report()
    assert report.num_steps == STEPS - 1
    assert 0 < report.score_recall_frac <= 1
    assert (report.used > 0) == (policy != "resident")
    layers = [*model.modules()]
    assert not any(module._forward_pre_hooks for module in layers)
