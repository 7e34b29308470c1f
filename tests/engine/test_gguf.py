"""Loading GGUF files, and their conversion to a folder that transformers reads."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

import gguf  # noqa: E402
import numpy as np  # noqa: E402

from kvsim.engine.model.loading import convert_gguf, load_model, main  # noqa: E402
from kvsim.errors import KvsimError  # noqa: E402

Q8 = gguf.GGMLQuantizationType.Q8_0


def expected_of(model) -> dict:
    """Return the weights of `model` as `tiny_gguf` has them: matrices of layers rounded to 8 bits by runs of 32."""
    state = dict(model.state_dict())
    for name, tensor in state.items():
        if name.startswith("model.layers.") and tensor.ndim == 2:
            state[name] = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(tensor.numpy(), Q8), Q8))
    return state


@pytest.fixture(scope="module")
def tiny_gguf(tiny_model, tmp_path_factory):
    """Return a GGUF file of `tiny_model`, its layers in Q8_0, with a byte-pair tokenizer of 256 bytes."""
    config, path = tiny_model.config, tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    letters = [chr(code) if 33 <= code < 127 else chr(0x100 + code) for code in range(256)]
    letters[200] = "ab"
    writer.add_token_list(letters)
    writer.add_token_types([1] * 256)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "o_proj": "attn_output",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    state = tiny_model.state_dict()
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    for name, tensor in state.items():
        if name.startswith("model.layers."):
            layer, part = name.split(".")[2], name.split(".")[-2]
            values = tensor.numpy()
            if part in heads:  # llama.cpp keeps the two halves of the rotary embedding interleaved
                values = values.reshape(heads[part], 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
            if values.ndim == 2:
                packed = gguf.quants.quantize(np.ascontiguousarray(values), Q8)
                writer.add_tensor(f"blk.{layer}.{names[part]}.weight", packed, raw_dtype=Q8)
            else:
                writer.add_tensor(f"blk.{layer}.{names[part]}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_converts_to_a_folder_that_loads_as_the_same_model(tiny_gguf, tiny_model, tmp_path, capfd):
    folder = tmp_path / "models" / "tiny"
    assert main([str(tiny_gguf), str(folder)]) == 0
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    model, tokenizer = load_model(folder, "bf16")
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    for name, tensor in expected_of(tiny_model).items():
        assert torch.equal(model.state_dict()[name], tensor.to(torch.bfloat16)), name
    assert tokenizer("cab")["input_ids"] == [99, 200]


def test_a_gguf_file_loads_unpacked(tiny_gguf, tiny_model):
    model, _ = load_model(str(tiny_gguf), "fp32")
    for name, tensor in expected_of(tiny_model).items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_conversion_never_writes_over_a_folder(tiny_gguf, tmp_path, capsys):
    assert main([str(tiny_gguf), str(tmp_path)]) == 2
    assert "already there" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_conversion_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KvsimError, match="no such GGUF file"):
        convert_gguf(tmp_path / "none.gguf", tmp_path / "tiny")
    assert not list(tmp_path.iterdir())


def test_conversion_tells_how_it_is_called(capsys):
    assert main(["one"]) == 2
    assert "GGUF FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"nonsense" * 100, b"GGUF\3\0\0\0" + b"\xff" * 64])
def test_a_file_that_is_no_gguf_is_one_line(tmp_path, content):
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(KvsimError, match=r"bad\.gguf: cannot load this model") as caught:
        load_model(path, "fp32")
    assert "\n" not in str(caught.value)
