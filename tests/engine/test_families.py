"""What differs between Llama-like and GPT-2-like models is known in one place, and each is read as it is."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from kvsim.engine.model.families import check_config, shape_of  # noqa: E402
from kvsim.engine.model.generation import peak_bytes  # noqa: E402
from kvsim.engine.model.loading import load_model, read_shape  # noqa: E402
from kvsim.engine.paged.decode import decode  # noqa: E402
from kvsim.engine.paged.prefill import prefill  # noqa: E402
from kvsim.errors import KvsimError  # noqa: E402
from kvsim.policies.selectors import TopK  # noqa: E402
from tests.engine.decoding import FAST_BYTES_PER_S, default_cache_logits, input_for, run  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_STEPS = 36
PROMPT_TOKENS = 150


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 256, (2, PROMPT_TOKENS), generator=torch.Generator().manual_seed(3))


def test_the_shape_of_a_gpt2_counts_its_parameters(tiny_gpt2):
    shape = shape_of(tiny_gpt2)
    assert (shape.num_kv_heads, shape.head_dim, shape.intermediate_size, shape.learned_positions) == (4, 16, 256, 512)
    assert shape.num_parameters == sum(part.numel() for part in tiny_gpt2.parameters())


@pytest.mark.parametrize("biases", ["qkv", "qkvo", None])
def test_the_shape_of_a_llama_like_model_counts_its_biases(biases):
    sizes = {
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    if biases == "qkv":
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes, tie_word_embeddings=True))
    else:
        config = transformers.LlamaConfig(**sizes, attention_bias=biases is not None, tie_word_embeddings=True)
        model = transformers.LlamaForCausalLM(config)
    shape = shape_of(model)
    assert shape.attention_biases == biases
    assert shape.num_parameters == sum(part.numel() for part in model.parameters())


@pytest.mark.parametrize("num_tokens", [256, 480])
def test_the_activations_of_a_step_are_close_to_the_peak_of_a_real_one(tiny_model, num_tokens):
    """transformers holds the embeddings besides: one tensor of the hidden size more than the formula."""
    shape = shape_of(tiny_model)
    ids = np.arange(num_tokens, dtype=np.int64).reshape(1, -1) % 250
    kv_bytes = shape.num_layers * shape.page_bytes(1) * num_tokens
    peak = peak_bytes(tiny_model, ids, 1, use_cache=True) - kv_bytes
    assert 1.0 <= peak / shape.activation_bytes(num_tokens, 1) < 1.25


@pytest.fixture(scope="module")
def gpt2_path(tiny_gpt2, tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    tiny_gpt2.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def test_a_folder_with_a_gpt2_loads(gpt2_path, tiny_gpt2):
    model, _ = load_model(gpt2_path, "fp32")
    assert torch.equal(model.transformer.wpe.weight, tiny_gpt2.transformer.wpe.weight)
    assert read_shape(gpt2_path, "fp32") == shape_of(tiny_gpt2)


@pytest.mark.parametrize(
    "changes", [{"add_cross_attention": True}, {"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}]
)
def test_a_gpt2_that_attends_otherwise_is_refused(tiny_gpt2, changes):
    config = type(tiny_gpt2.config)(**(tiny_gpt2.config.to_dict() | changes))
    with pytest.raises(KvsimError, match="cross attention or its own scaling"):
        check_config(config, "mine")


@pytest.mark.parametrize("model_type", ["deepseek_v2", "deepseek_v3"])
@pytest.mark.parametrize("width", [None, 64])
def test_a_latent_model_whose_head_dim_is_not_the_rotated_width_is_refused(model_type, width):
    """transformers makes its rotation of `head_dim`, of the hidden size over the heads where that is null."""
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "qk_rope_head_dim": 8}
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    check_config(config, "m")
    config.head_dim = width
    with pytest.raises(KvsimError, match=r"^m: head_dim, .*should be qk_rope_head_dim, 8, is (32|64)$"):
        check_config(config, "m")


def test_the_parts_of_a_gpt2_step_add_up(tiny_gpt2, ids):
    snapshot = prefill(tiny_gpt2, ids, room_tokens=NUM_STEPS)
    selector = TopK(k_pages=2, sink_pages=1, recent_pages=1)
    given = input_for(snapshot, "lru", num_steps=NUM_STEPS, pages_per_layer=6, selector=selector, pinned=(1, 1))
    result = decode(tiny_gpt2, snapshot, given, bandwidth_bytes_per_s=FAST_BYTES_PER_S, is_stamped=True)
    assert result.parts_s["attention_output"].shape == (NUM_STEPS, 3)
    total_s = sum(part.reshape(NUM_STEPS, -1).sum(axis=1) for part in result.parts_s.values())
    rest_s = result.step_s - total_s  # before and after the stamps; much where another program had the processor then
    assert rest_s.min() >= -1e-6 and np.median(rest_s) < 5e-4


def test_quantised_weights_without_bitsandbytes_are_one_line(gpt2_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else find(name, *rest)
    )
    for quantisation in ("8bit", "4bit"):
        with pytest.raises(KvsimError, match=f"'{quantisation}' needs the package bitsandbytes") as caught:
            load_model(gpt2_path, "fp32", quantisation=quantisation)
        assert "\n" not in str(caught.value)


def test_an_unknown_quantisation_is_refused(gpt2_path):
    with pytest.raises(KvsimError, match="'8bit' or '4bit'"):
        load_model(gpt2_path, "fp32", quantisation="2bit")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("quantisation", ["8bit", "4bit"])
def test_quantised_weights_are_packed_and_read(tiny_model, tiny_model_path, ids, quantisation):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model, _ = load_model(tiny_model_path, "fp32", quantisation=quantisation)
    packed = {"8bit": bitsandbytes.nn.Linear8bitLt, "4bit": bitsandbytes.nn.Linear4bit}[quantisation]
    assert isinstance(model.model.layers[0].self_attn.q_proj, packed)
    snapshot = prefill(model, ids, room_tokens=8)
    result = run(model, snapshot, input_for(snapshot, "lru", num_steps=8, pages_per_layer=5))
    assert torch.equal(result.tokens, default_cache_logits(model, ids, 8)[1])
    layers = sum(part.nbytes for name, part in model.state_dict().items() if "layers" in name)
    whole = shape_of(model)
    kept = whole.weights_bytes - whole.packed_weights_bytes(quantisation)
    dense = sum(part.nbytes for name, part in tiny_model.state_dict().items() if "layers" in name)
    assert dense - layers == pytest.approx(kept, rel=0.1)
