"""Reading a `config.json`: every family's traps, and one line for what cannot be read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kvsim.errors import ScenarioError
from kvsim.scenario.models.attention import Attention, Latent
from kvsim.scenario.models.blocks import Mlp
from kvsim.scenario.models.config import MAX_FILE_BYTES, from_config
from kvsim.scenario.models.families.table import FAMILIES, WRAPPERS
from kvsim.scenario.models.fields import UnsupportedError
from kvsim.scenario.models.known import known_model
from kvsim.scenario.models.spec import ModelSpec
from tests.scenario.models.tiny_configs import TINY


def kinds(spec: ModelSpec) -> list[str]:
    return [layer.kind for layer in spec.layers]


def tiny(model_type: str, **changes: Any) -> dict[str, Any]:
    return {**TINY[model_type], **changes}


def test_every_family_has_a_small_configuration_and_every_wrapper_a_family() -> None:
    assert set(TINY) == set(FAMILIES)
    assert set(WRAPPERS.values()) <= set(FAMILIES)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_missing_sizes_are_named_in_one_line(model_type: str) -> None:
    config = {key: value for key, value in TINY[model_type].items() if key in ("model_type", "layer_types")}
    config.pop("layer_types", None)
    with pytest.raises(ScenarioError, match=r"^mine: missing \w+") as problem:
        from_config(config, name="mine")
    assert "\n" not in str(problem.value)
    own = FAMILIES[model_type].names
    assert own.get("hidden_size", "hidden_size") in str(problem.value)


def test_all_missing_and_wrong_keys_come_at_once() -> None:
    config = tiny("qwen3", hidden_size="64", num_attention_heads=2.5, vocab_size=True)
    del config["intermediate_size"], config["num_hidden_layers"]
    with pytest.raises(ScenarioError) as problem:
        from_config(config, name="mine")
    assert str(problem.value) == (
        "mine: missing num_hidden_layers, intermediate_size; "
        "num_attention_heads should be a whole number from 1 to 2147483648, is 2.5; "
        "hidden_size should be a whole number from 1 to 2147483648, is '64'; "
        "vocab_size should be a whole number from 1 to 2147483648, is True"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers should be at most 4096"),
        ({"vocab_size": 10**12}, "vocab_size should be a whole number from 1 to"),
        ({"hidden_size": 0}, "hidden_size should be a whole number from 1 to"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings should be true or false, is 'yes'"),
        ({"attention_bias": 1}, "attention_bias should be true or false, is 1"),
        ({"num_key_value_heads": 3}, "num_attention_heads should be a multiple of num_key_value_heads, 3, is 4"),
    ],
)
def test_sizes_that_no_model_has_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        from_config(tiny("llama", **changes))


def test_an_unknown_family_is_named_with_the_nearest() -> None:
    with pytest.raises(ScenarioError, match=r"mine: unknown model_type 'qwen33'; did you mean 'qwen3'\?"):
        from_config({"model_type": "qwen33"}, name="mine")
    with pytest.raises(ScenarioError, match=r"unknown model_type 'bert'; \d+ families are read, such as llama"):
        from_config({"model_type": "bert"})
    with pytest.raises(ScenarioError, match=r"no model_type, which every config\.json has"):
        from_config({"hidden_size": 64})


@pytest.mark.parametrize(
    ("config", "feature"),
    [
        (tiny("gpt2", add_cross_attention=True), "cross attention"),
        (tiny("smollm3", use_sliding_window=True), "a sliding window that only some layers have"),
        (tiny("gemma3_text", use_bidirectional_attention=True), "attention to tokens that come later"),
        (tiny("nemotron_h", sliding_window=64), "a sliding window in a hybrid model"),
        (tiny("nemotron_h", hybrid_override_pattern="MX"), "layers of kind 'X'"),
        (tiny("deepseek_v3", moe_layer_freq=2), "experts in some layers only"),
        (tiny("glm_moe_dsa", index_topk_pattern="FS"), "a pattern of shared choices"),
        (tiny("qwen3_next", attn_output_gate=False), "attention without a gate on its output"),
        (tiny("qwen3_moe", use_qk_norm=False), "attention without norms of queries and keys"),
        (tiny("falcon_h1", mamba_use_mlp=False), "layers without an MLP"),
        (tiny("minimax_m2", qk_norm_type="per_head"), "norms of queries and keys of another type"),
        (tiny("gemma2", layer_types=["sliding_attention", "mlstm"] * 2), "layers of kind 'mlstm'"),
        (tiny("opt", layer_norm_elementwise_affine=False), "layer norms without weights"),
    ],
)
def test_a_feature_that_cannot_be_expressed_is_refused_by_name(config: dict[str, Any], feature: str) -> None:
    with pytest.raises(UnsupportedError, match=f"kvsim cannot express .*{feature}") as problem:
        from_config(config, name="mine")
    assert "\n" not in str(problem.value)


def test_keys_that_nobody_reads_are_listed() -> None:
    assert from_config(tiny("llama", rope_theta=1e6, hidden_act="silu", num_experts=8)).unread == ("num_experts",)
    assert from_config(tiny("llama", num_experts=None, use_lora=False, extras=[])).unread == ()


def test_a_list_of_layers_must_be_as_long_as_the_model() -> None:
    with pytest.raises(ScenarioError, match="layer_types should be a list of 4 entries, one a layer"):
        from_config(tiny("gemma2", layer_types=["full_attention"]))


def test_listed_kinds_win_over_the_familys_pattern() -> None:
    assert kinds(from_config(tiny("gemma2"))) == ["sliding", "full"] * 2
    listed = ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"]
    assert kinds(from_config(tiny("gemma2", layer_types=listed))) == ["full", "sliding", "sliding", "sliding"]


def test_a_window_that_is_there_and_not_in_use_is_none() -> None:
    """Qwen2.5 publishes a window and turns it off; the layers in front of `max_window_layers` have none either."""
    assert kinds(from_config(tiny("qwen2", use_sliding_window=False))) == ["full"] * 4
    assert kinds(from_config(tiny("qwen2"))) == ["full", "full", "sliding", "sliding"]
    assert kinds(known_model("qwen2.5-7b")) == ["full"] * 28


def test_mistral_without_the_key_has_the_window_of_its_code_and_with_null_none() -> None:
    config = tiny("mistral")
    del config["sliding_window"]
    (mixer,) = from_config(config).layers[0].mixers
    assert isinstance(mixer, Attention)
    assert mixer.window_tokens == 4096
    assert kinds(from_config(tiny("mistral", sliding_window=None))) == ["full"] * 4


def test_heads_share_the_hidden_size_where_no_width_is_set() -> None:
    for absent in ({}, {"head_dim": None}):
        config = {key: value for key, value in TINY["llama"].items() if key != "head_dim"} | absent
        (mixer,) = from_config(config).layers[0].mixers
        assert isinstance(mixer, Attention)
        assert mixer.head_dim == 16


def test_every_head_has_keys_where_a_configuration_does_not_say() -> None:
    config = {key: value for key, value in TINY["llama"].items() if key != "num_key_value_heads"}
    (mixer,) = from_config(config).layers[0].mixers
    assert isinstance(mixer, Attention)
    assert mixer.num_kv_heads == mixer.num_heads == 4


def test_a_model_that_sees_is_read_by_its_text_part() -> None:
    text = {key: value for key, value in tiny("gemma3_text").items() if key != "model_type"}
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}, "dtype": "bfloat16"}
    spec = from_config(config)
    assert (spec.model_type, spec.dtype, spec.not_counted) == ("gemma3_text", "bf16", ("vision",))
    assert spec.num_parameters == from_config(tiny("gemma3_text")).num_parameters


def test_whether_tables_are_tied_may_stand_outside_the_text_part() -> None:
    text = tiny("qwen3")
    outside = from_config({"model_type": "qwen3_vl", "text_config": text, "tie_word_embeddings": True})
    assert outside.tied_embeddings
    assert not from_config(text).tied_embeddings
    text |= {"tie_word_embeddings": True}
    assert from_config({"model_type": "qwen3_vl", "text_config": text}).tied_embeddings
    assert not from_config(
        {"model_type": "qwen3_vl", "text_config": text, "tie_word_embeddings": False}
    ).tied_embeddings
    assert from_config(tiny("gemma")).tied_embeddings  # its code's own default


def test_layers_that_predict_further_tokens_are_left_out_and_said_to_be() -> None:
    assert known_model("deepseek-v3").not_counted == ("layers that predict further tokens (1)",)
    assert len(known_model("deepseek-v3").layers) == 61


def test_layers_may_have_widths_of_their_own() -> None:
    spec = from_config(tiny("gemma3n_text", intermediate_size=[10, 20, 30, 40]))
    assert [layer.mlps[0] for layer in spec.layers] == [Mlp(intermediate_size=size) for size in (10, 20, 30, 40)]
    with pytest.raises(ScenarioError, match="intermediate_size should be a whole number, or a list of 4, one a layer"):
        from_config(tiny("gemma3n_text", intermediate_size=[10, 20]))


def test_other_ways_to_say_which_layers_hold_a_state() -> None:
    by_code = from_config(tiny("minimax", attn_type_list=[0, 0, 0, 1]))
    assert kinds(by_code) == ["state", "state", "state", "full"]
    by_number = {key: value for key, value in tiny("lfm2", full_attn_idxs=[2]).items() if key != "layer_types"}
    assert kinds(from_config(by_number)) == ["state", "state", "full", "state"]
    assert kinds(from_config(tiny("bamba", attn_layer_indices=[0, 1, 2, 3]))) == ["full"] * 4
    by_word = {key: value for key, value in TINY["nemotron_h"].items() if key != "hybrid_override_pattern"}
    assert kinds(from_config({**by_word, "layers_block_type": ["mamba", "moe", "attention"]})) == [
        "state",
        "none",
        "full",
    ]


def test_a_width_that_is_not_adjusted_is_taken_as_it_is() -> None:
    adjusted, plain = (from_config(tiny("lfm2", block_auto_adjust_ff_dim=adjusts)) for adjusts in (True, False))
    assert [spec.layers[0].mlps[0] for spec in (adjusted, plain)] == [
        Mlp(intermediate_size=80),  # two thirds of 112, up to a multiple of 16
        Mlp(intermediate_size=112),
    ]


def test_latent_attention_is_read_with_and_without_a_latent_of_queries() -> None:
    (v3,) = known_model("deepseek-v3").layers[0].mixers
    (lite,) = known_model("deepseek-v2-lite").layers[0].mixers
    assert isinstance(v3, Latent)
    assert isinstance(lite, Latent)
    assert (v3.query_rank, v3.kv_rank, v3.rope_dim) == (1536, 512, 64)
    assert lite.query_rank is None


def test_positions_that_are_learned_are_a_limit() -> None:
    spec = known_model("gpt2")
    assert (spec.max_positions, spec.has_position_limit) == (1024, True)
    assert spec.parameters_by_part()["positions"] == 1024 * 768
    assert not known_model("llama-3.1-8b").has_position_limit


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "config.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_a_file_and_its_folder_are_the_same_model(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    file = write(folder, json.dumps(TINY["qwen3"]))
    assert from_config(file) == from_config(folder) == from_config(str(folder))
    assert from_config(folder).name == "my-model"
    assert from_config(folder, name="other").name == "other"


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    write(tmp_path, b"\xef\xbb\xbf" + json.dumps(TINY["qwen3"]).encode())
    assert from_config(tmp_path).num_parameters == from_config(TINY["qwen3"]).num_parameters


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[1, 2]", "not a table of keys"),
        (b"\xff\xfe\x00", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (" " * (MAX_FILE_BYTES + 1), "larger than 4 MiB"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(ScenarioError, match=words) as problem:
        from_config(write(tmp_path, text))
    assert "\n" not in str(problem.value)
    assert len(str(problem.value)) < 400


def test_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"config.json: no such file; give a config.json, or the folder"):
        from_config(tmp_path)
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ScenarioError, match="not a file"):
        from_config(tmp_path)
