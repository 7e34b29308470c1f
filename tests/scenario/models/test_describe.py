"""The rows of `kvsim model show`."""

from __future__ import annotations

import dataclasses
import json

import pytest

from kvsim.errors import CapacityError
from kvsim.scenario.models.config import from_config
from kvsim.scenario.models.describe import describe, kv_line, layer_rows
from kvsim.scenario.models.known import known_model, known_models
from kvsim.scenario.models.memory import kv_bytes
from kvsim.scenario.models.uniform import differences
from kvsim.scenario.shapes import SHAPES, ModelShape, check_context
from tests.scenario.models.tiny_configs import TINY


@pytest.mark.parametrize("name", known_models())
def test_every_model_that_ships_can_be_shown(name: str) -> None:
    shown = describe(known_model(name))
    assert sum(row.num_layers for row in shown.layers) == len(known_model(name).layers)
    assert shown.num_parameters == sum(shown.parts.values())
    assert shown.pieces[0].from_tokens == 0
    assert all(kv_line(piece) for piece in shown.pieces)
    assert json.loads(json.dumps(dataclasses.asdict(shown)))["name"] == name


def test_layers_of_gemma_2_are_two_rows() -> None:
    sliding, full = layer_rows(known_model("gemma-2-9b"))
    assert (sliding.kind, sliding.num_layers, sliding.max_held_tokens) == ("sliding", 21, 4096)
    assert sliding.layers.startswith("0, 2, 4, ")
    assert sliding.attention == "16 heads, 8 KV heads of 256, sliding 4,096 tokens"
    assert (full.kind, full.max_held_tokens, full.mlp) == ("full", None, "gated 14,336")
    assert sliding.token_bytes == full.token_bytes == 8192


def test_layers_of_other_kinds_say_what_they_are() -> None:
    dense, sparse = layer_rows(known_model("deepseek-v3.2"))
    assert dense.layers == "0-2"
    assert dense.attention == "128 heads, latent 512 + 64, reads 2,048 tokens"
    assert sparse.mlp == "8 of 256 experts of 2,048, shared 2,048"
    (hybrid,) = layer_rows(known_model("falcon-h1-0.5b"))
    assert (hybrid.kind, hybrid.attention) == ("full + state", "8 heads, 2 KV heads of 64 + mamba2")
    assert hybrid.state_bytes == 2 * (24 * 64 * 128 + 3 * (24 * 64 + 2 * 128))
    shared = [row for row in layer_rows(from_config(TINY["gemma3n_text"])) if row.kind == "shared"]
    assert shared[0].token_bytes == 0
    assert "keys of an earlier layer" in shared[0].attention


def test_contexts_and_formats_are_those_of_the_cache() -> None:
    shown = describe(known_model("gpt-oss-20b"), kv="fp8")
    assert shown.contexts == {n: kv_bytes(known_model("gpt-oss-20b"), n, "fp8") for n in (8192, 32_768, 131_072)}
    assert shown.formats["bf16"] == kv_bytes(known_model("gpt-oss-20b"), 131_072)
    assert shown.weights["published"] < shown.weights["bf16"] / 3


def test_no_context_is_longer_than_learned_positions() -> None:
    assert list(describe(known_model("gpt2")).contexts) == [1024]
    assert list(describe(known_model("llama-3-8b")).contexts) == [8192, 32_768, 131_072]


def test_published_weights_are_left_out_where_no_dtype_is_known() -> None:
    assert "published" not in describe(known_model("gpt2")).weights


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mistral-7b-v0.1", "of its 32 layers 32 attend to a window of 4,096 tokens"),
        ("llama-4-scout", "36 attend to chunks of 8,192 tokens"),
        ("deepseek-v3", "61 hold a latent for all heads"),
        ("gemma-4-e2b", "20 read an earlier layer's keys"),
        ("nemotron-3-nano-30b-a3b", "23 hold a state, 23 have no attention"),
        ("falcon-h1-0.5b", "36 attend to the whole context and hold a state"),
    ],
)
def test_what_pages_cannot_take_is_named(name: str, words: str) -> None:
    assert words in "; ".join(differences(known_model(name)))


def test_a_window_as_long_as_the_positions_drops_nothing() -> None:
    assert known_model("phi-4-mini").layers[0].kind == "sliding"
    assert differences(known_model("phi-4-mini")) == []
    assert differences(known_model("phi-mini-moe")) == ["of its 32 layers 32 attend to a window of 2,047 tokens"]


def test_keys_and_values_of_other_widths_are_refused() -> None:
    spec = known_model("qwen3-8b")
    layer = dataclasses.replace(spec.layers[0], mixers=(dataclasses.replace(spec.layers[0].mixers[0], value_dim=64),))
    assert differences(dataclasses.replace(spec, layers=(layer,) * 2)) == ["its keys are 128 wide and its values 64"]


def test_layers_with_different_heads_are_named() -> None:
    spec = from_config({**TINY["gemma4_text"], "layer_types": ["full_attention"] * 4, "num_kv_shared_layers": 0})
    assert spec.layers[0].mixers[0].head_dim == 24
    narrow = dataclasses.replace(spec.layers[0].mixers[0], head_dim=8)
    layers = (*spec.layers[:3], dataclasses.replace(spec.layers[3], mixers=(narrow,)))
    assert differences(dataclasses.replace(spec, layers=layers)) == ["its layers have heads of 2 sorts"]


def test_windows_beside_whole_contexts_have_no_pages() -> None:
    shape = SHAPES["gemma-2-9b"]
    assert (shape.num_layers, shape.window_layers, shape.paged_layers, shape.window_tokens) == (42, 21, 21, 4096)
    assert shape.window_bytes(100_000) == 21 * 4096 * shape.page_bytes(1)
    check_context(shape, 100_000, "mine", holds_windows=True)
    with pytest.raises(CapacityError, match="sliding window"):
        check_context(shape, 100_000, "mine")


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ({"window_layers": 2}, "without window_tokens"),
        ({"window_layers": 32, "window_tokens": 8}, "leave one with pages"),
    ],
)
def test_windows_that_cannot_be_are_refused(windows: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelShape(**{**SHAPES["llama-3-8b"].model_dump(), **windows})
