"""Model shapes: parameters as the published models have them, activations as an engine reports, contexts that end."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from kvsim.errors import CapacityError, ScenarioError
from kvsim.scenario.models.known import known_model, known_models
from kvsim.scenario.models.memory import kv_bytes, weight_bytes
from kvsim.scenario.shapes import SHAPES, ModelShape, check_context, find_shape, shape_of_spec


def gpt2() -> ModelShape:
    return ModelShape(
        num_layers=12,
        hidden_size=768,
        num_heads=12,
        num_kv_heads=12,
        head_dim=64,
        intermediate_size=3072,
        vocab_size=50257,
        tied_embeddings=True,
        learned_positions=1024,
        dtype="fp32",
    )


def test_the_activations_of_a_step_are_those_that_vllm_reports() -> None:
    """2.07 GiB for Llama-3.1-8B and a step of 20,000 tokens (vllm issue 10517)."""
    assert SHAPES["llama-3-8b"].activation_bytes(20_000, 1) / 2**30 == pytest.approx(2.07, rel=0.01)


def test_the_activations_of_a_step_do_not_grow_with_the_sequences_but_for_their_logits() -> None:
    shape = SHAPES["llama-3-8b"]
    assert shape.activation_bytes(512, 64) - shape.activation_bytes(512, 1) == 63 * 128_256 * 4


@pytest.mark.parametrize(
    ("shape", "fits", "feature"),
    [(gpt2(), 1024, "learned_positions"), (SHAPES["gemma-2-9b"], 4096, "sliding window of 4,096 tokens")],
)
def test_a_context_beyond_what_a_shape_counts_is_refused_by_the_name_of_the_feature(shape, fits, feature) -> None:
    check_context(shape, fits, "a")
    with pytest.raises(CapacityError, match=feature) as refused:
        check_context(shape, fits + 1, "a")
    assert "\n" not in str(refused.value)


def test_a_rotary_model_has_no_such_end() -> None:
    check_context(SHAPES["llama-3-8b"], 10**6, "a")


def test_new_fields_that_are_absent_leave_no_trace_in_what_is_written() -> None:
    assert not {"attention_biases", "window_tokens"} & set(SHAPES["llama-3-8b"].model_dump(mode="json"))
    written = SHAPES["gemma-2-9b"].model_dump(mode="json")
    assert ModelShape.model_validate(written) == SHAPES["gemma-2-9b"]


def test_a_shape_counts_what_its_model_does() -> None:
    """Every model that decode can express: parameters, weights in any format, cache; from the shape alone."""
    for name in SHAPES:
        shape, spec = SHAPES[name], known_model(name)
        assert shape.num_parameters == spec.num_parameters, name
        for form in ("bf16", "fp8", "int4", "nf4"):
            assert shape.in_formats(weights=form).weights_bytes == pytest.approx(weight_bytes(spec, form), rel=1e-5), (
                name
            )
        states = kv_bytes(spec, 0)
        assert (shape.num_layers - shape.state_layers) * shape.page_bytes(64) == kv_bytes(spec, 64) - states, name
        assert (states > 0) == (shape.state_bytes > 0), name
        assert ModelShape.model_validate(shape.model_dump(mode="json")) == shape


def test_the_eight_oldest_names_are_what_they_were() -> None:
    assert SHAPES["llama-3-8b"].model_dump(exclude_none=True) == {
        "num_layers": 32,
        "hidden_size": 4096,
        "num_heads": 32,
        "num_kv_heads": 8,
        "head_dim": 128,
        "intermediate_size": 14_336,
        "vocab_size": 128_256,
        "tied_embeddings": False,
        "dtype": "bf16",
    }
    names = ("smollm2-135m", "llama-3.2-1b", "llama-3.2-3b", "llama-3-70b", "qwen2.5-7b", "mistral-7b", "gemma-2-9b")
    assert all(SHAPES[name].dtype == "bf16" for name in names)


def test_a_name_that_decode_cannot_express_is_refused_by_the_feature() -> None:
    assert "deepseek-v3" in SHAPES
    assert "deepseek-v3" not in list(SHAPES)
    with pytest.raises(ScenarioError, match="61 hold a latent for all heads"):
        SHAPES["deepseek-v3"]
    with pytest.raises(KeyError):
        SHAPES["deepseek-v"]


@pytest.mark.parametrize(
    ("keys", "feature"),
    [
        ({"model_type": "falcon_h1"}, "36 attend to the whole context and hold a state"),
        ({"model_type": "llama4_text"}, "experts before layers without"),
    ],
)
def test_features_of_configurations_are_named(keys: dict[str, str], feature: str) -> None:
    known = {"falcon_h1": "falcon-h1-0.5b", "llama4_text": "llama-4-maverick"}[keys["model_type"]]
    with pytest.raises(ScenarioError, match=feature):
        shape_of_spec(known_model(known))


def test_layers_with_a_state_are_refused_where_keys_of_all_layers_are_simulated() -> None:
    shape = SHAPES["qwen3-next-80b-a3b"]
    assert (shape.paged_layers, shape.state_layers) == (12, 36)
    with pytest.raises(CapacityError, match="prompts: 36 layers of the model hold a state"):
        check_context(shape, 1000, "prompts")
    check_context(shape, 1000, "decode", holds_windows=True)


def test_a_state_in_every_layer_leaves_no_pages() -> None:
    shape = SHAPES["qwen3-next-80b-a3b"].model_dump()
    with pytest.raises(ValueError, match=r"states.num_layers: 48 of num_layers = 48; leave one with pages"):
        ModelShape.model_validate(shape | {"states": shape["states"] | {"num_layers": 48}})


def test_a_gate_on_the_output_of_attention_is_named() -> None:
    spec = known_model("qwen3-8b")
    gated = dataclasses.replace(spec.layers[0].mixers[0], gate_numbers=32)  # type: ignore[call-overload]
    layer = dataclasses.replace(spec.layers[0], mixers=(gated,))
    with pytest.raises(ScenarioError, match="a gate on the output of its attention that is not as wide"):
        shape_of_spec(dataclasses.replace(spec, layers=(layer,) * 2))


def test_experts_are_counted_where_they_are() -> None:
    experts = SHAPES["glm-4.5-air"].experts
    assert experts is not None
    assert (experts.num_experts, experts.experts_per_token, experts.num_dense_layers) == (128, 8, 1)


def test_a_cache_in_fewer_bits_has_smaller_pages_and_the_same_summaries() -> None:
    whole, half, scaled = (SHAPES["qwen3-8b"].in_formats(kv=kv) for kv in ("bf16", "fp8", "int8"))
    assert whole == SHAPES["qwen3-8b"]
    assert half.page_bytes(64) * 2 == whole.page_bytes(64)
    assert scaled.page_bytes(64) == half.page_bytes(64) + 64 * 2 * 8 * 4
    assert half.summary_bytes(10) == whole.summary_bytes(10)


def test_a_shape_in_other_formats_is_read_again() -> None:
    shape = SHAPES["mixtral-8x7b"].in_formats(weights="int4", kv="fp8")
    assert ModelShape.model_validate(shape.model_dump(mode="json")) == shape
    with pytest.raises(ValueError, match="did you mean 'int4'"):
        ModelShape.model_validate(shape.model_dump(mode="json") | {"weights": "int44"})


def test_a_folder_is_found_from_here_or_from_where_the_scenario_lies(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(known_models()["qwen3-0.6b"].config | {}))
    assert find_shape(str(folder)) == SHAPES["qwen3-0.6b"]
    assert find_shape("mine", base_dir=tmp_path) == SHAPES["qwen3-0.6b"]
    monkeypatch.chdir(tmp_path)
    assert find_shape("mine/config.json", base_dir=Path("elsewhere")) == SHAPES["qwen3-0.6b"]
