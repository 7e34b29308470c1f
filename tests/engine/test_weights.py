"""Loading models from folders: what cannot be loaded is one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from kvsim.cli import run_command  # noqa: E402
from kvsim.engine.model import loading as weights  # noqa: E402
from kvsim.engine.model.loading import load_model, read_shape, shape_of  # noqa: E402
from kvsim.errors import KvsimError  # noqa: E402
from kvsim.scenario.shapes import SHAPES  # noqa: E402

TINY = {
    "num_layers": 3,
    "hidden_size": 64,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": 256,
    "tied_embeddings": True,
}


@pytest.fixture
def folder(tiny_model_path, tmp_path):
    """Return a copy of the tiny model that a test may damage."""
    return shutil.copytree(tiny_model_path, tmp_path / "tiny")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_folder_loads_in_the_dtype_asked_for_ready_to_read(tiny_model_path, tiny_model, dtype, torch_dtype):
    model, tokenizer = load_model(tiny_model_path, dtype)
    assert model.dtype == torch_dtype
    assert not model.training
    assert model.config._attn_implementation == "sdpa"
    assert tokenizer("ab")["input_ids"] == [97, 98]
    assert torch.equal(model.model.embed_tokens.weight, tiny_model.model.embed_tokens.weight.to(torch_dtype))


def test_shape_is_told_of_a_model_and_of_its_folder_alike(tiny_model, tiny_model_path):
    shape = shape_of(tiny_model)
    assert shape.model_dump(exclude_none=True) == TINY | {"dtype": "fp32"}
    assert read_shape(tiny_model_path, "bf16").model_dump(exclude_none=True) == TINY | {"dtype": "bf16"}
    assert shape.num_parameters == sum(part.numel() for part in tiny_model.parameters())


def test_head_dim_that_a_configuration_leaves_out_is_hidden_size_over_heads(folder):
    change_config(folder, head_dim=None)
    assert read_shape(folder, "fp32").head_dim == 16


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere/at/all", "no such folder or file"),
        ("./nowhere", "no such folder or file"),
        ("two words", "no such folder or file"),
        ("nowhere.gguf", "no such GGUF file"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KvsimError, match=words) as caught:
        load_model(name, "fp32")
    assert str(caught.value).startswith(name)


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch, capfd):
    def unreachable(*args, **kwargs):
        raise OSError("We couldn't connect to the hub\nto load the files.\n" + "More advice. " * 40)

    monkeypatch.setattr(weights.PreTrainedConfig, "get_config_dict", unreachable)
    monkeypatch.setattr("kvsim.engine.model.source.hub_answers", lambda: True)
    with pytest.raises(
        KvsimError, match=r"someone/model: no folder here, and as a hub id: .* couldn't connect"
    ) as caught:
        load_model("someone/model", "fp32")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("More advice.")  # whole
    assert capfd.readouterr() == ("", "")


OFFLINE = """
from kvsim.engine.model.loading import load_model
from kvsim.errors import KvsimError
try:
    print(load_model("someone/tiny", "fp32")[0].config.model_type)
except KvsimError as problem:
    print(problem)
"""


def offline(cache):
    """Load a model by its hub id where nobody answers; return what is printed on both streams."""
    settings = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(cache)}  # the port of discard: nobody listens
    folder = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=dict(os.environ) | settings | {"PYTHONPATH": str(folder)},
    )
    return done.stdout, done.stderr


def test_without_a_network_a_hub_id_is_refused_without_a_retry(tmp_path):
    printed, warned = offline(tmp_path)
    assert printed == (
        f"someone/tiny: no folder here, and as a hub id: not in {tmp_path}, and http://127.0.0.1:9 does not answer; "
        "name a model's folder or a .gguf file\n"
    )
    assert warned == ""


def test_without_a_network_a_hub_id_is_found_in_the_cache(tiny_model_path, tmp_path):
    cached = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_model_path, cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    assert offline(tmp_path) == ("llama\n", "")


def change_tensors(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def without(part):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda tensors: {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()},
            r"lack lm_head\.weight, model\.embed_tokens\.weight, .* and \d+ more; "
            r"it has _orig_mod\.model\..* and \d+ more instead\Z",
        ),
        (without("layers.1.mlp.up"), r"lack model\.layers\.1\.mlp\.up_proj\.weight\Z"),
        (without("model.norm"), r"lack model\.norm\.weight\Z"),
        (
            lambda tensors: tensors | {"model.norm.weight": tensors["model.norm.weight"][:10].clone()},
            r"sizes of model\.norm\.weight are not those that config\.json gives\Z",
        ),
        (
            lambda tensors: tensors | {"model.layers.1.self_attn.q_proj.bias": torch.ones(64)},
            r"have model\.layers\.1\.self_attn\.q_proj\.bias, which a model of type 'llama' .* does not use\Z",
        ),
        (
            lambda tensors: tensors | {"model.layers.3.mlp.up_proj.weight": torch.ones(128, 64)},
            r"have model\.layers\.3\.mlp\.up_proj\.weight, which a model of type 'llama' .* does not use\Z",
        ),
    ],
)
def test_weights_that_are_not_the_models_are_refused_by_name(folder, change, problem, capfd):
    change_tensors(folder, change)
    with pytest.raises(KvsimError, match=problem) as caught:
        load_model(folder, "fp32")
    assert str(caught.value).startswith(f"{folder}: the ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_head_of_another_task_does_no_harm(folder, tiny_model):
    change_tensors(folder, lambda tensors: tensors | {"v_head.weight": torch.ones(3)})
    model, _ = load_model(folder, "fp32")
    assert torch.equal(model.lm_head.weight, tiny_model.lm_head.weight)


OWN_CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path(MARK).touch()
class MineConfig(LlamaConfig):
    model_type = "mine"
class Mine(LlamaForCausalLM):
    config_class = MineConfig
class MineTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.mark.parametrize("model_type", ["llama", "mine"])
def test_code_that_comes_with_a_model_is_never_run_and_nobody_is_asked(folder, tmp_path, monkeypatch, model_type):
    mark = tmp_path / "it-ran"
    (folder / "mine.py").write_text(OWN_CODE.replace("MARK", repr(str(mark))))
    classes = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.Mine"}
    change_config(folder, model_type=model_type, auto_map=classes)
    path = folder / "tokenizer_config.json"
    tokens = {"AutoTokenizer": ["mine.MineTokenizer", "mine.MineTokenizer"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": tokens}))

    def ask(*arguments):
        raise AssertionError("asked")

    monkeypatch.setattr("builtins.input", ask)
    if model_type == "llama":
        assert type(load_model(folder, "fp32")[0]).__name__ == "LlamaForCausalLM"
    else:
        with pytest.raises(KvsimError, match=r"does not read models of type 'mine'; .* such as llama"):
            load_model(folder, "fp32")
    assert not mark.exists()


def damage_config(folder):
    (folder / "config.json").write_text("{not json")


def drop_config(folder):
    (folder / "config.json").unlink()


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def drop_weights(folder):
    (folder / "model.safetensors").unlink()


def damage_tokenizer(folder):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("WordLevel", "WordLovel"))


def drop_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize(
    "damage", [damage_config, drop_config, cut_weights, drop_weights, damage_tokenizer, drop_tokenizer]
)
def test_a_damaged_folder_is_one_line_that_names_it(folder, damage, capfd):
    damage(folder)
    with pytest.raises(KvsimError) as caught:
        load_model(folder, "fp32")
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"x")
    with pytest.raises(KvsimError, match=r"not a \.gguf file"):
        load_model(str(path), "fp32")


def test_other_architectures_are_refused_by_name(folder):
    change_config(folder, model_type="bert")
    with pytest.raises(KvsimError, match=r"does not read models of type 'bert'; \d+ families are read, such as llama"):
        read_shape(folder, "fp32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_one_line(tiny_model_path):
    with pytest.raises(KvsimError, match="no CUDA GPU"):
        load_model(tiny_model_path, "fp32", "cuda")


@pytest.mark.model
def test_the_trained_model_has_the_shape_that_goes_by_its_name(model_path):
    assert read_shape(model_path, "bf16") == SHAPES["smollm2-135m"]


def without(folder, key):
    path = folder / "config.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: change_config(folder, model_type="mamba2"), "does not read models of type 'mamba2'"),
        (lambda folder: change_config(folder, model_type="qwen"), "did you mean 'qwen2'|did you mean 'qwen3'"),
        (lambda folder: without(folder, "hidden_size"), "hidden_size"),
        (lambda folder: without(folder, "vocab_size"), "vocab_size"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (
            lambda folder: change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4}),
            "weights are packed by 'gptq' .*take a checkpoint in bf16",
        ),
        (lambda folder: change_config(folder, quantization_config={"quant_method": "mxfp4"}), "packed by 'mxfp4'"),
        (lambda folder: change_config(folder, quantization_config={"bits": 4}), "packed by 'an unnamed method'"),
        (lambda folder: change_config(folder, quantization_config=[]), "packed by 'an unnamed method'"),
        (lambda folder: change_config(folder, quantization={"bits": 4}), "packed by 'an unnamed method'"),
        (lambda folder: without(folder, "model_type"), r"no model_type, which every config\.json has"),
        (lambda folder: change_config(folder, hidden_act="swish2"), "transformers has no 'swish2'"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not a table of keys, as a config"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": '), "not valid JSON"),
    ],
)
def test_what_of_a_folder_cannot_be_read_is_named_in_one_line_and_exits_with_2(folder, damage, message, tmp_path):
    damage(folder)
    with pytest.raises(KvsimError, match=message) as caught:
        load_model(folder, "fp32")
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    text = tmp_path / "text.txt"
    text.write_text("some text " * 40)
    command = ["capture", "--model", str(folder), "--text", str(text), "-o", str(tmp_path / "out.kvtrace")]
    assert run_command([*command, "--prompt-tokens", "20", "--decode-tokens", "2"]) == 2
