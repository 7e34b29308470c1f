"""Opens the model a user names, a folder, a hub id or a GGUF file, and refuses what kvsim cannot read."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.utils import logging as hub_logging
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from kvsim.errors import KvsimError
from kvsim.models import DType, ModelShape

TORCH_DTYPES: dict[DType, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtypes of weights and KV cache by the name that profiles and traces write."""

LLAMA_LIKE = ("llama", "mistral", "qwen2")
"""Values of `model_type` whose layers are norm, q/k/v projections, rotary embedding, attention, output, gated MLP."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?\Z", re.ASCII)


def load_model(
    path_or_id: Path | str, dtype: DType, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model in evaluation mode, with SDPA attention and weights in `dtype`, and its tokenizer.

    Parameters
    ----------
    path_or_id
        A folder that `save_pretrained` wrote, a ``.gguf`` file (its weights are unpacked), or a hub id.

    Raises
    ------
    KvsimError
        If there is nothing there, it cannot be read, the hub does not answer, the model is not Llama-like, or
        there is no such device.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise KvsimError(f"device {device!r}: torch sees no CUDA GPU here; use 'cpu'")
    _read_config(path_or_id)
    source, arguments = _source_of(path_or_id)
    with _one_line_faults(path_or_id), _quiet():
        tokenizer = AutoTokenizer.from_pretrained(source, **arguments)
        if "gguf_file" in arguments and hasattr(transformers, "GgufConfig"):
            arguments["quantization_config"] = transformers.GgufConfig(dequantize=True)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            source, dtype=TORCH_DTYPES[dtype], attn_implementation="sdpa", **arguments
        )
    module: torch.nn.Module = model
    module.train(False).to(device)
    return model, tokenizer


def shape_of(model: PreTrainedModel) -> ModelShape:
    """Return the sizes of a Llama-like model, with the dtype its weights are held in.

    Raises
    ------
    KvsimError
        If the model is not Llama-like, or its weights are in a dtype that kvsim has no name for.
    """
    config = model.config
    _check_config(config, config.name_or_path or "model")
    names: dict[torch.dtype, DType] = {dtype: name for name, dtype in TORCH_DTYPES.items()}
    if model.dtype not in names:
        raise KvsimError(f"weights are in {model.dtype}; load the model as one of {', '.join(TORCH_DTYPES)}")
    return _shape_of_config(config, names[model.dtype])


def read_shape(path_or_id: Path | str, dtype: DType) -> ModelShape:
    """Return the sizes of a model as `load_model` would load it, from its configuration alone.

    Raises
    ------
    KvsimError
        As `load_model` does.
    """
    return _shape_of_config(_read_config(path_or_id), dtype)


def _shape_of_config(config: Any, dtype: DType) -> ModelShape:
    return ModelShape(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=head_dim_of(config),
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        tied_embeddings=bool(config.tie_word_embeddings),
        dtype=dtype,
    )


def head_dim_of(config: Any) -> int:
    """Return the numbers in one head's key; configurations that leave it out mean the hidden size over the heads."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model of a GGUF file as bf16 safetensors with its tokenizer, whole or not at all.

    `save_pretrained` refuses a model that was loaded from GGUF, so the weights move into a fresh one.

    Raises
    ------
    KvsimError
        If `gguf` cannot be read as a Llama-like model, or `folder` is already there.
    """
    if folder.exists():
        raise KvsimError(f"{folder}: already there; remove it to convert again")
    packed, tokenizer = load_model(gguf, "fp32")
    model = type(packed)(packed.config)
    model.load_state_dict(packed.state_dict())
    module: torch.nn.Module = model
    module.to(torch.bfloat16)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with _quiet():
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    partial.rename(folder)


def main(arguments: list[str]) -> int:
    """Convert one GGUF file from the command line; return the exit code."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m kvsim.engine.weights GGUF FOLDER\n")
        return 2
    try:
        convert_gguf(Path(arguments[0]), Path(arguments[1]))
    except KvsimError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _source_of(path_or_id: Path | str) -> tuple[str, dict[str, Any]]:
    """Return what `from_pretrained` is told: a folder or hub id, and the arguments that go with it."""
    path = Path(path_or_id).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise KvsimError(f"{path_or_id}: no such GGUF file")
        return str(path.parent), {"gguf_file": path.name, "local_files_only": True}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise KvsimError(f"{path_or_id}: no model here, it lacks config.json; name a folder, hub id or .gguf file")
        return str(path), {"local_files_only": True}
    if path.exists() or isinstance(path_or_id, Path) or not _HUB_ID.match(path_or_id):
        problem = "not a .gguf file" if path.exists() else "no such folder or file"
        raise KvsimError(f"{path_or_id}: {problem}; name a model's folder, a hub id or a .gguf file")
    return path_or_id, {}


def _read_config(path_or_id: Path | str) -> Any:
    """Return the configuration of a Llama-like model."""
    source, arguments = _source_of(path_or_id)
    is_hub = "local_files_only" not in arguments
    with _one_line_faults(f"{path_or_id}: no folder here, and as a hub id" if is_hub else path_or_id), _quiet():
        config = AutoConfig.from_pretrained(source, **arguments)
        _check_config(config, path_or_id)
    return config


def _check_config(config: Any, name: Path | str) -> None:
    """Refuse what is not Llama-like: other layers, or layers that do not attend to the whole context."""
    if config.model_type not in LLAMA_LIKE:
        raise KvsimError(
            f"{name}: model type {config.model_type!r} is not Llama-like; kvsim reads {', '.join(LLAMA_LIKE)}"
        )
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or (config.model_type == "mistral" and config.sliding_window is not None):
        raise KvsimError(f"{name}: some layers attend to a sliding window; kvsim reads models with full attention only")


@contextlib.contextmanager
def _one_line_faults(name: Path | str) -> Iterator[None]:
    """Turn what transformers and its readers raise on a damaged or unreachable model into one line."""
    try:
        yield
    except KvsimError:
        raise
    except Exception as error:  # the tokenizers library raises nothing narrower
        reason = textwrap.shorten(str(error) or type(error).__name__, 240, placeholder=" ...")
        raise KvsimError(f"{name}: cannot load this model: {reason}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the progress bars and advice of transformers, and put both back as they were.

    The bar of its GGUF reader asks nobody, hence the redirection; faults are exceptions and come through.
    """
    log: Any = transformers_logging  # half of it is not annotated
    hub: Any = hub_logging
    verbosity, hub_verbosity, bars = log.get_verbosity(), hub.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    hub.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.set_verbosity(verbosity)
        hub.set_verbosity(hub_verbosity)
        if bars:
            log.enable_progress_bar()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
