"""Checks that every experiment makes name what differs, with both values."""

import pytest

from kvsim.errors import ScenarioError
from kvsim.profile.profile import check_made_for
from kvsim.scenario.checks import check_length, check_shape
from kvsim.scenario.shapes import SHAPES
from tests.accesses import make_profile

SHAPE = SHAPES["smollm2-135m"]


def test_a_model_of_other_sizes_is_refused_by_the_fields_that_differ() -> None:
    check_shape(SHAPE, SHAPE, where="s")
    other = SHAPE.model_copy(update={"hidden_size": 64, "dtype": "fp32"})
    line = r"s: the model in m has another shape than model.shape, in these fields: "
    with pytest.raises(ScenarioError, match=line + r"hidden_size \(64, not 576\), dtype \(fp32, not bf16\)$"):
        check_shape(other, SHAPE, where="s: the model in m")


def test_only_more_tokens_than_the_model_reads_are_refused() -> None:
    check_length(512, 512, where="s")
    check_length(10**6, None, where="s")
    with pytest.raises(ScenarioError, match=r"^s: 513 tokens, the model reads 512$"):
        check_length(513, 512, where="s")


def test_a_profile_of_another_shape_or_other_weights_is_refused_by_what_differs() -> None:
    profile = make_profile().model_copy(update={"shape": SHAPE, "quantisation": "4bit"})
    check_made_for(profile, SHAPE, "4bit", where="s")
    with pytest.raises(ScenarioError, match=r"s: profile 'test' .* in these fields: num_layers \(30, not 2\);"):
        check_made_for(profile, SHAPE.model_copy(update={"num_layers": 2}), "4bit", where="s")
    with pytest.raises(ScenarioError, match="made with 4bit weights, the scenario has unpacked ones"):
        check_made_for(profile, SHAPE, where="s")
