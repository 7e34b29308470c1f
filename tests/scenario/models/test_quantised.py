"""Checkpoints that pack their weights: each method's table, and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvsim.scenario.models.config import from_config
from kvsim.scenario.models.fields import UnsupportedError
from kvsim.scenario.models.known import known_model
from kvsim.scenario.models.memory import weight_bytes
from kvsim.scenario.models.spec import ModelSpec
from tests.scenario.models.test_weights import LLAMA, MATRICES, OTHERS
from tests.scenario.models.tiny_configs import TINY


def packed(table: dict[str, Any], config: dict[str, Any] = LLAMA) -> ModelSpec:
    return from_config({**config, "torch_dtype": "bfloat16", "quantization_config": table}, name="m")


def _compressed(**weights: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}


@pytest.mark.parametrize(
    ("table", "packed_bytes"),
    [
        (
            {"quant_method": "gptq", "bits": 4, "group_size": -1},
            MATRICES // 2 + 4 * (2.5 * 544 + 4 * (5 * 64 + 96 + 112)),
        ),
        ({"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True}, MATRICES * (0.5 + 2.5 / 16)),
        ({"quant_method": "fp8"}, MATRICES + 28 * 4),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, MATRICES + 28 * 4),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, MATRICES * (0.5 + 4 / 64)),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, MATRICES + 4 * 544 * 4),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
            MATRICES // 2 + 4 * (2 * 98 + 2 * 49 + 3 * 114),  # 96, 48 and 112 blocks of 64, rounded up a matrix
        ),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, MATRICES + 28 * 4),
        (_compressed(num_bits=4, type="float", group_size=16), MATRICES * 9 // 16),
        (_compressed(num_bits=4, type="float", group_size=32), MATRICES * 0.5 + 4 * (416 * 2 + 64 * 3 + 64 * 4)),
        (_compressed(num_bits=8, type="float", strategy="tensor"), MATRICES + 28 * 4),
        (_compressed(num_bits=8, type="float", strategy="block", block_structure=[128, 128]), MATRICES + 28 * 4),
        (_compressed(num_bits=8, strategy="channel"), MATRICES + 4 * 544 * 2),
        (_compressed(num_bits=4, strategy="group", group_size=16), MATRICES * (0.5 + 2 / 16)),
        (_compressed(num_bits=4, strategy="group", group_size=16, symmetric=False), MATRICES * (0.5 + 2.5 / 16)),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, MATRICES * 9 // 16),
    ],
)
def test_a_table_says_how_weights_are_packed(table: dict[str, Any], packed_bytes: float) -> None:
    """544 outputs in the 7 matrices of a layer, 64, 96 or 112 inputs each."""
    assert weight_bytes(packed(table)) == packed_bytes + 2 * OTHERS


def test_mxfp4_packs_experts_only() -> None:
    spec = known_model("gpt-oss-20b")
    assert spec.quantisation is not None
    parts = spec.parameters_by_part()
    matrices = 24 * 32 * 3 * 2880 * 2880
    rest = spec.num_parameters - matrices
    assert weight_bytes(spec) == matrices * 17 // 32 + 2 * rest
    assert parts["experts"] == matrices + 24 * 32 * (2 * 2880 + 2880)


def test_parts_of_all_layers_and_of_single_ones_are_left_alone() -> None:
    whole = weight_bytes(packed({"quant_method": "fp8"}))
    attention = 64 * (96 + 48 + 48) + 96 * 64
    table = {"quant_method": "fp8", "modules_to_not_convert": ["lm_head", "model.layers.*.self_attn"]}
    assert weight_bytes(packed(table)) == whole + 4 * (attention - 4 * 4)
    table["modules_to_not_convert"] = ["model.layers.1.self_attn.q_proj", "re:.*layers\\.3\\.self_attn.*"]
    assert weight_bytes(packed(table)) == whole + 2 * (attention - 4 * 4)
    table["modules_to_not_convert"] = ["model.layers.0*"]
    assert weight_bytes(packed(table)) == whole + attention + 3 * 64 * 112 - 7 * 4


def test_a_star_behind_a_number_is_all_layers_that_begin_so() -> None:
    config = {**LLAMA, "num_hidden_layers": 12}
    table = {"quant_method": "fp8", "ignore": ["model.layers.1*"]}
    spec = packed(table, config)
    assert spec.quantisation is not None
    assert {layer for layer, _ in spec.quantisation.unpacked_layers} == {1, 10, 11}


def test_routers_stay_and_shared_experts_can_be_left_alone() -> None:
    config = TINY["qwen3_next"]
    all_packed = packed({"quant_method": "fp8"}, config)
    left = packed({"quant_method": "fp8", "ignored_layers": ["model.layers.0.mlp.shared_expert", "mlp.gate"]}, config)
    assert weight_bytes(left) - weight_bytes(all_packed) == 3 * 64 * 40 - 3 * 4


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"quant_method": "hqq"}, "kvsim cannot express weights packed by 'hqq'; it reads gptq, awq, fp8"),
        ({"bits": 4}, "weights packed by 'an unnamed method'"),
        ({"quant_method": "gptq", "bits": 4}, "groups of None"),
        ({"quant_method": "gptq", "bits": "four", "group_size": 128}, "'four' bits"),
        ({"quant_method": "awq", "bits": 99, "group_size": 128}, "99 bits"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, r"weight_block_size \[128\]"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "modelopt as 'MIXED_PRECISION'"),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": {}, "b": {}}}, "in 2 groups"),
        ({"quant_method": "fp8", "ignore": ["something.else"]}, "leave out 'something.else'"),
        ({"quant_method": "fp8", "ignore": ["re:model.layers.(0|1).mlp"]}, "leave out"),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": {}}}, "do not say how weights are packed"),
        (_compressed(num_bits=8, strategy="attn_head"), "the strategy 'attn_head'"),
        ({"quant_method": "fp8", "ignore": "lm_head"}, "ignore = 'lm_head'"),
        ({"quant_method": "bitsandbytes"}, "neither 4 nor 8 bits"),
        ("gptq", "a quantization_config that is no table"),
    ],
)
def test_what_cannot_be_expressed_is_named(table: Any, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        packed(table)


@pytest.mark.parametrize("key", ["quantization", "compression_config"])
def test_other_keys_that_say_how_weights_are_packed_are_seen(key: str) -> None:
    """MLX writes ``quantization`` and names no method; compressed-tensors once had a key of its own."""
    with pytest.raises(UnsupportedError, match="weights packed by 'an unnamed method'"):
        from_config({**LLAMA, key: {"bits": 4, "group_size": 64}})
    by_key = from_config({**LLAMA, "torch_dtype": "bfloat16", key: {"quant_method": "fp8"}})
    assert weight_bytes(by_key) == weight_bytes(packed({"quant_method": "fp8"}))
    assert by_key.unread == ()


def test_modelopts_file_next_to_a_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "torch_dtype": "bfloat16"}))
    unpacked = weight_bytes(from_config(tmp_path))
    table = {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(table))
    assert weight_bytes(from_config(tmp_path)) == unpacked - 2 * MATRICES + MATRICES * 9 // 16
