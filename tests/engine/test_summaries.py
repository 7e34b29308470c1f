"""Scores that the engine selects by equal those that a capture records, and one token more changes one page."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from kvsim.engine.capture.scores import PageSummaries  # noqa: E402
from kvsim.engine.model.weighting import Weighting  # noqa: E402
from kvsim.engine.paged.summaries import host_box_scores, make_summaries, torch_box_scores  # noqa: E402
from kvsim.errors import ScenarioError  # noqa: E402
from kvsim.types import PageGrid  # noqa: E402

NUM_SEQUENCES, NUM_LAYERS, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, PAGE_TOKENS = 2, 2, 6, 2, 8, 16
WEIGHTING = Weighting(scaling=HEAD_DIM**-0.5)
CAPPED = Weighting(scaling=HEAD_DIM**-0.5, softcap=1.5)


@pytest.mark.parametrize("weighting", [WEIGHTING, CAPPED], ids=["plain", "capped"])
@pytest.mark.parametrize("channel", ["estimate:quest", "estimate:mean", "estimate:cuboid-mean"])
def test_scores_equal_those_of_a_capture_while_pages_fill_and_open(channel, weighting):
    generator = torch.Generator().manual_seed(1)
    shape = (NUM_SEQUENCES, NUM_LAYERS, 60, NUM_KV_HEADS, HEAD_DIM)
    keys = torch.randn(shape, generator=generator)
    grid = PageGrid(num_sequences=NUM_SEQUENCES, num_layers=NUM_LAYERS, pages_per_layer=4)
    summaries = make_summaries(channel, grid, keys[:, :, :40].transpose(0, 1), page_tokens=PAGE_TOKENS, device="cpu")
    for place in range(40, 60):
        query = torch.randn((NUM_SEQUENCES, NUM_HEADS, 1, HEAD_DIM), generator=generator)
        for layer in range(NUM_LAYERS):
            summaries.update(layer, place // PAGE_TOKENS, keys[:, layer, place].unsqueeze(2))
            scores = summaries.scores(layer, query, place // PAGE_TOKENS + 1, weighting)
            assert scores.dtype == torch.float16
            for sequence in range(NUM_SEQUENCES):
                expected = _captured(channel, keys[sequence, layer, : place + 1], query[sequence, :, 0], weighting)
                torch.testing.assert_close(scores[sequence].float(), expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weighting", [WEIGHTING, CAPPED], ids=["plain", "capped"])
def test_compiled_scores_of_boxes_equal_those_of_torch(dtype, weighting):
    generator = torch.Generator().manual_seed(2)
    query = torch.randn((NUM_SEQUENCES, NUM_HEADS, 1, HEAD_DIM), generator=generator).to(dtype)
    keys = torch.randn((NUM_SEQUENCES, NUM_KV_HEADS, 9, 5, HEAD_DIM), generator=generator)
    boxes = torch.cat((keys.amax(dim=3), -keys.amin(dim=3)), dim=-1).to(dtype)
    compiled = host_box_scores(query, boxes, 7, weighting)
    expected = torch_box_scores(query.float(), boxes[:, :, :7].float(), weighting)
    torch.testing.assert_close(compiled.float(), expected.float(), rtol=2e-3, atol=1e-6)


def _captured(channel, keys, query, weighting):
    summaries = PageSummaries(
        page_tokens=PAGE_TOKENS, max_tokens=64, num_kv_heads=NUM_KV_HEADS, head_dim=HEAD_DIM, device=torch.device("cpu")
    )
    summaries.extend(keys.transpose(0, 1))
    scores = {"estimate:quest": summaries.quest, "estimate:mean": summaries.mean}
    return scores.get(channel, summaries.cuboid_mean)(query, weighting)


def test_a_channel_the_engine_cannot_see_is_refused():
    grid = PageGrid(num_sequences=1, num_layers=1, pages_per_layer=1)
    keys = torch.zeros(1, 1, 16, 2, 8)
    with pytest.raises(ScenarioError, match=r"selector.channel 'mass': .*estimate:mean"):
        make_summaries("mass", grid, keys, page_tokens=PAGE_TOKENS, device="cpu")
