"""What the table says of a family is what its attention does: queries, weights, layers, sizes and bounds."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from kvsim.engine.capture.scores import head_products, quest_bounds  # noqa: E402
from kvsim.engine.model.families import Queries, attention_modules, shape_of, weightings_of  # noqa: E402
from kvsim.engine.model.layers import paged_layers, window_layers, window_of_all, windows_of  # noqa: E402
from tests.engine.families.heard import heard  # noqa: E402

PAGE_TOKENS = 16


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 256, (1, 60), generator=torch.Generator().manual_seed(8))


def test_the_query_of_a_layer_is_the_one_that_its_attention_gets(model, ids):
    queries, position = Queries(model), ids.shape[1] - 1
    with heard(model) as found, torch.inference_mode():
        model(ids)
        for layer in range(len(attention_modules(model))):
            rotary = found.rotary[layer]
            if isinstance(rotary, tuple):
                rotary = tuple(part[:, position:] for part in rotary)
            elif rotary is not None:
                rotary = rotary[:, position:]
            query = queries.of(layer, found.hidden[layer][:, position:], rotary)
            expected = queries.inward(layer, found.queries[layer][:, :, position:])
            torch.testing.assert_close(query, expected, rtol=1e-5, atol=1e-5)


def test_the_weights_are_scaled_capped_and_sunk_as_the_attention_is_told(model, ids):
    with heard(model) as found, torch.inference_mode():
        model(ids)
    for layer, weighting in enumerate(weightings_of(model)):
        options = found.options[layer]
        scaling = options["scaling"]
        assert weighting.scaling == (found.queries[layer].shape[-1] ** -0.5 if scaling is None else scaling)
        assert weighting.softcap == options.get("softcap")
        assert weighting.sinks is options.get("s_aux")


def test_the_shape_counts_the_parameters_and_the_layers_with_pages(model):
    shape = shape_of(model)
    stored = [part for name, part in model.named_buffers() if name in model.state_dict()]  # a router's correction
    assert shape.num_parameters == sum(part.numel() for part in (*model.parameters(), *stored))
    assert shape.paged_layers == len(paged_layers(model.config)) == len(attention_modules(model))
    windows = window_layers(model.config)
    assert shape.window_layers == len(windows)
    assert set(windows.values()) <= {shape.window_tokens}
    assert window_of_all(model.config) == (shape.window_tokens if not windows else None)


def test_a_layer_with_pages_attends_to_the_whole_context_or_every_layer_has_a_window(model):
    windows = windows_of(model.config)
    paged = [windows[place] for place in paged_layers(model.config)]
    assert not any(paged) or all(windows)


def test_no_key_of_a_page_has_a_larger_logit_than_its_summary_bounds(model, ids):
    with heard(model) as found, torch.inference_mode():
        model(ids)
    for layer, weighting in enumerate(weightings_of(model)):
        query, keys = found.queries[layer][0, :, -1], found.keys[layer][0]
        pages = keys.split(PAGE_TOKENS, dim=1)
        minimum, maximum = (torch.stack([getattr(page, name)(1) for page in pages], 1) for name in ("amin", "amax"))
        bounds = weighting.logits(quest_bounds(query, minimum, maximum))
        best = torch.stack([weighting.logits(head_products(query, page)).amax(1) for page in pages], 1)
        assert (bounds >= best - 1e-5).all()
        assert (bounds > best + 1e-3).any()  # or it bounds nothing
