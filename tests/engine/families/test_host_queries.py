"""Queries predicted on the host are those of the family, or the family has none."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from kvsim.engine.model.families import Queries, attention_modules  # noqa: E402
from kvsim.engine.paged.host_queries import host_queries  # noqa: E402
from tests.engine.families.models import tiny_model_of  # noqa: E402


def states_of(model, layer, num_sequences=3):
    generator = torch.Generator().manual_seed(layer)
    hidden = torch.randn((num_sequences, 1, model.config.hidden_size), generator=generator)
    angles = torch.rand((1, 1, attention_modules(model)[layer].head_dim // 2), generator=generator).repeat(1, 1, 2)
    return hidden, (angles.cos(), angles.sin())


def test_host_queries_of_a_family_are_its_own_within_eight_bits_or_there_are_none(model):
    made = host_queries(model)
    if model.config.model_type == "llama":
        assert made is not None
    if made is None:
        return
    for layer in range(len(attention_modules(model))):
        hidden, rotary = states_of(model, layer)
        with torch.no_grad():
            expected = Queries(model).of(layer, hidden, rotary)
        query = made.of(layer, hidden, rotary)
        assert query.shape == expected.shape
        assert (query - expected).norm() < 0.02 * expected.norm()


def test_a_model_that_makes_its_queries_otherwise_has_none():
    biased, normed = (copy.deepcopy(tiny_model_of("llama")) for _ in range(2))
    attention_modules(biased)[0].q_proj.bias = torch.nn.Parameter(torch.ones(biased.config.hidden_size))
    assert host_queries(biased) is None
    layer = normed.model.layers[-1]
    layer.input_layernorm.register_forward_hook(lambda module, inputs, output: output.flip(-1))
    assert host_queries(normed) is None
