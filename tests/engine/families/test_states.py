"""Layers with a state: what they take, what a prompt leaves in them, and what a cache that has them refuses."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transformers import DynamicCache  # noqa: E402

from kvsim.engine.model.families import shape_of  # noqa: E402
from kvsim.engine.model.family_table import FAMILIES  # noqa: E402
from kvsim.engine.model.forward import logits_of  # noqa: E402
from kvsim.engine.model.layers import paged_layers, state_layers  # noqa: E402
from kvsim.engine.paged.decode import decode  # noqa: E402
from kvsim.engine.paged.prefill import prefill  # noqa: E402
from kvsim.errors import CapacityError, KvsimError  # noqa: E402
from kvsim.scenario.models.config import from_config  # noqa: E402
from kvsim.scenario.models.memory import kv_bytes  # noqa: E402
from tests.engine.decoding import FAST_BYTES_PER_S, FULL, cache_of, default_cache_logits, generate, input_for  # noqa: E402
from tests.engine.families.models import tiny_model_of  # noqa: E402

PROMPT_TOKENS = 40
HYBRID = ("qwen3_next", "lfm2", "granitemoehybrid")


def paged(model, *, max_tokens=64, **options):
    return cache_of(model, FULL, policy="lru", pages=4, max_tokens=max_tokens, **options)


def states_of(cache):
    """Return the tensors of the states of a cache by layer and name."""
    held = {}
    for place, layer in enumerate(cache.layers):
        for name in ("conv_states", "recurrent_states"):
            for number, state in getattr(layer, name, {}).items():
                if state is not None:
                    held[place, name, number] = state
    return held


@pytest.fixture(scope="module", params=HYBRID)
def hybrid(request):
    return tiny_model_of(request.param)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 256, (2, PROMPT_TOKENS), generator=torch.Generator().manual_seed(12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_take_the_bytes_of_the_shape_whatever_the_context(model, ids, dtype):
    config, cast = model.config, copy.deepcopy(model).to(dtype)
    for num_tokens in (1, 9, PROMPT_TOKENS):
        cache = DynamicCache(config=config)
        with torch.inference_mode():
            logits_of(cast, ids[:, :num_tokens], cache)
            logits_of(cast, ids[:, :1], cache)
        taken = sum(state.nbytes for state in states_of(cache).values())
        assert taken == 2 * shape_of(cast).state_bytes
        assert (taken > 0) == bool(state_layers(config))


def test_a_published_state_is_that_of_the_shape_but_for_the_newest_input_of_convolutions(hybrid):
    """transformers holds one input more of a convolution than published caches do: as many as the kernel sees."""
    shape, spec = shape_of(hybrid), from_config(hybrid.config.to_dict())
    kernel = {"lfm2": 3}.get(hybrid.config.model_type, 4)
    newest_bytes = 4 * shape.state_layers * shape.states.convolution_numbers // kernel
    assert kv_bytes(spec, 0, "fp32") == shape.state_bytes - newest_bytes
    assert shape.unpaged_bytes(0) == shape.unpaged_bytes(100_000) == shape.state_bytes


def test_layers_with_a_state_have_no_pages(hybrid):
    shape = shape_of(hybrid)
    assert shape.paged_layers == len(paged_layers(hybrid.config)) == 3
    assert shape.state_layers == len(state_layers(hybrid.config)) == 3
    assert not set(paged_layers(hybrid.config)) & set(state_layers(hybrid.config))


def test_the_parts_of_a_step_hold_the_time_of_layers_without_pages(hybrid, ids):
    """Two layers with a state come before the first with pages, so `embed` has them; the parts add up to the step."""
    num_steps = 6
    snapshot = prefill(hybrid, ids, room_tokens=num_steps)
    run_input = input_for(snapshot, "lru", num_steps=num_steps, pages_per_layer=3)
    result = decode(hybrid, snapshot, run_input, bandwidth_bytes_per_s=FAST_BYTES_PER_S, is_stamped=True)
    assert result.parts_s["attention_output"].shape == (num_steps, 3)
    total_s = sum(part.reshape(num_steps, -1).sum(axis=1) for part in result.parts_s.values())
    rest_s = result.step_s - total_s  # before and after the stamps; much where another program had the processor then
    assert rest_s.min() >= -1e-6 and np.median(rest_s) < 5e-4


def test_a_step_out_of_inference_mode_goes_on_from_a_copy_made_in_it(hybrid, ids):
    logits, _ = default_cache_logits(hybrid, ids[:1], 1)
    with paged(hybrid) as cache:
        with torch.inference_mode():
            token = logits_of(hybrid, ids[:1], cache)[:, -1:].argmax(-1)
            copied = copy.deepcopy(cache)
        with copied, torch.no_grad():
            found = logits_of(hybrid, token.clone(), copied)[:, -1]
    torch.testing.assert_close(found, logits[:, 0], rtol=2e-5, atol=5e-5)


def test_a_token_without_room_leaves_the_states_as_they_are(hybrid, ids):
    with paged(hybrid, max_tokens=PROMPT_TOKENS + 1) as cache, torch.no_grad():
        logits_of(hybrid, ids[:1], cache)
        logits_of(hybrid, ids[:1, :1], cache)
        before = {key: state.clone() for key, state in states_of(cache).items()}
        with pytest.raises(CapacityError, match="is full: max_tokens=41"):
            logits_of(hybrid, ids[:1, :1], cache)
        assert before
        for key, state in states_of(cache).items():
            assert torch.equal(state, before[key])


def test_a_pass_that_was_cut_short_ends_a_cache_whose_layers_took_it_in(hybrid, ids):
    with paged(hybrid) as cache, torch.no_grad():
        with pytest.raises(KvsimError, match="batch of 1"):
            logits_of(hybrid, ids, cache)
        with pytest.raises(KvsimError, match="cut short, and layers that hold a window or a state took"):
            logits_of(hybrid, ids[:1], cache)


def test_a_turn_after_a_sequence_ended_early_is_refused(hybrid, ids):
    free = generate(hybrid, ids, max_new_tokens=3)[:, PROMPT_TOKENS:]
    end = int(free[0, 0])
    assert end not in free[1]
    options = {"eos_token_id": end, "pad_token_id": 0}
    with paged(hybrid, batch=2, end_token_ids=(end,)) as cache:
        every = generate(hybrid, ids, cache, max_new_tokens=4, **options)
        turn = torch.cat((every, ids[:, :5]), dim=1)
        mask = torch.ones_like(turn)
        mask[0, PROMPT_TOKENS + 1 : every.shape[1]] = 0
        with pytest.raises(KvsimError, match="sequence 0 ended before others, and layers that hold a state"):
            generate(hybrid, turn, cache, attention_mask=mask, max_new_tokens=2, **options)


def test_every_family_with_states_is_among_the_tested(model):
    assert bool(state_layers(model.config)) == (
        model.config.model_type in (*HYBRID, "qwen3_5_text", "qwen3_5_moe_text")
    )
    assert set(HYBRID) <= set(FAMILIES)
