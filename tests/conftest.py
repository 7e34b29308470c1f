"""Models that more than one room's tests need: the trained one where it is at hand, and a tiny one made on the spot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("KVSIM_HYPOTHESIS", "ci"))

REPOSITORY = Path(__file__).resolve().parents[1]
TRAINED_MODEL = REPOSITORY / ".cache" / "models" / "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def model_path() -> Path:
    """Return the folder of the trained model: KVSIM_MODEL, or what `make model` wrote; skip, or fail in CI, without."""
    path = Path(os.environ.get("KVSIM_MODEL") or TRAINED_MODEL)
    if not (path / "config.json").is_file():
        reason = f"no trained model in {path}: run `make model`, or set KVSIM_MODEL to its folder"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def tiny_model():
    """Return a random Llama of 3 layers, 4 query heads on 2 key-value heads of 16, in fp32; never changed by a test."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = transformers.LlamaForCausalLM(config)
        for name, weight in model.named_parameters():
            if "norm" in name:  # all ones otherwise, and one layer's would pass for another's
                torch.nn.init.uniform_(weight, 0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_gpt2():
    """Return a random GPT-2 of 3 layers with 4 heads of 16, in fp32; never changed by a test."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=256,
        n_embd=64,
        n_layer=3,
        n_head=4,
        n_positions=512,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = transformers.GPT2LMHeadModel(config)
        for name, weight in model.named_parameters():
            if "ln_" in name and "weight" in name:
                torch.nn.init.uniform_(weight, 0.5, 1.5)
            elif name.endswith("bias"):
                torch.nn.init.uniform_(weight, -0.1, 0.1)
    return model.eval()


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Return a tokenizer of one token for each of the first 256 characters, for `tiny_model`."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({chr(code): code for code in range(256)}, unk_token="?"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    core.decoder = tokenizers.decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?")


@pytest.fixture(scope="session")
def tiny_model_path(tiny_model, tiny_tokenizer, tmp_path_factory) -> Path:
    """Return a folder that holds `tiny_model` and `tiny_tokenizer` as `save_pretrained` writes them."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder
