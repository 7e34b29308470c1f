"""The profile that a scenario asks for: a file's, or a card's estimate."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvsim.errors import KvsimError, ScenarioError
from kvsim.profile.cards.load import load_card
from kvsim.profile.choose import chosen_profile, profile_in_file
from kvsim.profile.estimate.estimate import estimate_profile
from kvsim.profile.estimate.kernels import PRICED_AS, formats_of
from kvsim.profile.estimate.step import decode_step_s
from kvsim.scenario.decode import ProfileChoice, load_scenario
from kvsim.scenario.models.formats import WEIGHT_FORMATS
from kvsim.scenario.shapes import SHAPES

QWEN = SHAPES["qwen3-8b"]
SCENARIO = Path(__file__).parents[2] / "scenarios" / "long_context.toml"


def test_a_card_is_estimated_for_the_shape_as_it_runs() -> None:
    shape = QWEN.in_formats(weights="int4", kv="fp8")
    profile = chosen_profile(ProfileChoice(card="rtx-4090"), shape, base_dir=None)
    assert (profile.kind, profile.runtime, profile.shape) == ("estimated", "graph", shape)
    assert profile == estimate_profile(load_card("rtx-4090"), QWEN, weights="int4", kv="fp8")
    eager = chosen_profile(ProfileChoice(card="rtx-4090", runtime="eager"), shape, base_dir=None)
    assert eager.runtime == "eager"


def test_weights_packed_by_bitsandbytes_are_priced_and_said() -> None:
    packed = chosen_profile(ProfileChoice(card="l40s"), QWEN, "4bit", base_dir=None)
    assert (packed.quantisation, packed.shape) == ("4bit", QWEN)
    whole = chosen_profile(ProfileChoice(card="l40s"), QWEN, base_dir=None)
    steps_s = [decode_step_s(profile, batch=1, context_tokens=1024) for profile in (packed, whole)]
    assert steps_s[0] < 0.6 * steps_s[1]


def test_a_card_of_ones_own_lies_where_the_scenario_does(tmp_path: Path) -> None:
    rates = 'memory_bytes = "16 GiB"\nmemory_bandwidth_bytes_per_s = "500 GB"\nbf16_flop_per_s = 60e12\n'
    (tmp_path / "mine.toml").write_text(f"{rates}unified_memory = true\n")
    profile = chosen_profile(ProfileChoice(card="mine.toml"), QWEN, base_dir=tmp_path)
    assert profile.name.startswith("mine-bf16")


@pytest.mark.parametrize("both", [{}, {"path": "a", "card": "rtx-4090"}])
def test_one_of_path_and_card_is_given(both: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="give path or card"):
        ProfileChoice(**both)


def test_a_runtime_is_that_of_an_estimate() -> None:
    with pytest.raises(ValueError, match="runtime is for an estimate"):
        ProfileChoice(path="a", runtime="eager")


def test_what_runs_for_real_needs_a_profile_of_a_machine() -> None:
    with pytest.raises(ScenarioError, match=r"an estimate of a card; this needs a profile of this machine"):
        profile_in_file(ProfileChoice(card="rtx-4090"), base_dir=None, where="mine")


def test_a_card_takes_the_place_of_a_path_on_the_command_line() -> None:
    scenario = load_scenario(SCENARIO, ["profile.card=rtx-4090"])
    assert (scenario.profile.path, scenario.profile.card) == (None, "rtx-4090")
    assert load_scenario(SCENARIO, ["profile.card=rtx-4090"]).hash != load_scenario(SCENARIO).hash


def test_every_format_of_weights_is_priced_or_refused_by_name() -> None:
    for name in WEIGHT_FORMATS:
        if name in PRICED_AS:
            assert formats_of(QWEN, name, None, has_fp8=True).weights in PRICED_AS.values()
        else:
            with pytest.raises(KvsimError, match=f"weights in {name}: no table of kernels is near them"):
                formats_of(QWEN, name, None, has_fp8=True)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (QWEN.in_formats(kv="int8"), "KV cache in int8: no table of kernels has it"),
        (SHAPES["mixtral-8x7b"].in_formats(weights="int8"), "experts in int8"),
        (QWEN.in_formats(dtype="fp32"), "prices bf16 and fp16"),
    ],
)
def test_what_an_estimate_cannot_price_is_one_line(shape, message: str) -> None:
    with pytest.raises(ScenarioError, match=message) as refused:
        estimate_profile(load_card("h100"), shape)
    assert "\n" not in str(refused.value)


def test_a_mixture_takes_the_mean_of_layers_with_and_without_experts() -> None:
    card, shape = load_card("h100"), SHAPES["glm-4.5-air"]
    assert shape.experts is not None
    every = shape.model_copy(update={"experts": shape.experts.model_copy(update={"num_dense_layers": 0})})
    none = shape.model_copy(update={"experts": None})
    mixed_s, routed_s, dense_s = (
        estimate_profile(card, one).segments["attention_output"].device.at_s(0, sequences=4)
        for one in (shape, every, none)
    )
    assert mixed_s == pytest.approx((45 * routed_s + dense_s) / 46, rel=1e-4)


def test_experts_read_more_weights_in_a_larger_batch() -> None:
    table = estimate_profile(load_card("h100"), SHAPES["qwen3-30b-a3b"]).segments["attention_output"].device
    assert table.at_s(0, sequences=16) > 3 * table.at_s(0, sequences=1)
