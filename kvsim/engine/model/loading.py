"""Opens the model a user names, a folder, a hub id or a GGUF file, and refuses what kvsim cannot read."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.utils import logging as hub_logging
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from kvsim.engine.model.dense import dense_name
from kvsim.engine.model.families import TORCH_DTYPES as TORCH_DTYPES
from kvsim.engine.model.families import (
    check_config,
    check_model_type,
    check_whole_context,
    layers_name,
    shape_of_config,
)
from kvsim.engine.model.families import shape_of as shape_of
from kvsim.engine.model.family_table import FAMILIES
from kvsim.engine.model.sdpa import leave_cudnn_out
from kvsim.engine.model.source import source_of
from kvsim.errors import KvsimError
from kvsim.scenario.checks import check_shape
from kvsim.scenario.models.config import from_config, read_keys
from kvsim.scenario.models.quantised import packing_of
from kvsim.scenario.shapes import DType, ModelShape, Quantisation
from kvsim.scenario.whole_files import temporary_name


def load_model(
    path_or_id: Path | str, dtype: DType, device: str = "cpu", *, quantisation: Quantisation | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model in evaluation mode, with weights in `dtype` and SDPA where it has one, and its tokenizer.

    On a GPU SDPA leaves cuDNN's attention out, for the whole process; `kvsim.engine.model.sdpa` says why.

    Parameters
    ----------
    path_or_id
        A folder that `save_pretrained` wrote, a ``.gguf`` file (its weights are unpacked), or a hub id.
    quantisation
        Pack the weights of the linear layers into 8 or 4 bits as they load; needs the package bitsandbytes.

    Raises
    ------
    KvsimError
        If there is nothing there, it cannot be read, the hub does not answer, the model is of no family that kvsim
        reads, the file lacks some of its weights, there is no such device, or bitsandbytes is not installed and
        quantised weights are asked for.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise KvsimError(f"device {device!r}: torch sees no CUDA GPU here; use 'cpu'")
    if device.startswith("cuda"):
        leave_cudnn_out()
    source, arguments = source_of(path_or_id)
    family = FAMILIES[_read_config(path_or_id, source, arguments).model_type]
    packing = {} if quantisation is None else _packing(path_or_id, quantisation, dtype, device)
    with _one_line_errors(path_or_id), _quiet():
        tokenizer = AutoTokenizer.from_pretrained(source, **arguments)
        if "gguf_file" in arguments and hasattr(transformers, "GgufConfig"):
            arguments["quantization_config"] = transformers.GgufConfig(dequantize=True)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=TORCH_DTYPES[dtype],
            attn_implementation=dense_name(family),
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
            **arguments,
            **packing,
        )
        model: PreTrainedModel = loaded[0]
        _check_tensors(loaded[1], model, path_or_id)
    module: torch.nn.Module = model
    module.train(False)
    if quantisation is None:
        module.to(device)  # packed weights are there already, and refuse to move
    return model, tokenizer


def load_model_of(
    shape: ModelShape,
    path_or_id: str,
    device: str,
    *,
    quantisation: Quantisation | None = None,
    where: str,
    takes_windows: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return model and tokenizer as `load_model` does, of the sizes that a scenario says.

    Parameters
    ----------
    takes_windows
        Whether layers may attend to a sliding window; by default the model is for caches of whole prompts.

    Raises
    ------
    ScenarioError
        If the model has others, naming the fields; the line begins with `where`.
    """
    model, tokenizer = load_model(path_or_id, shape.dtype, device, quantisation=quantisation)
    check_shape(shape_of(model), shape, where=f"{where}: the model in {path_or_id}")
    if not takes_windows:
        check_whole_context(model.config, path_or_id)
    return model, tokenizer


def _packing(path_or_id: Path | str, quantisation: str, dtype: DType, device: str) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for quantised weights."""
    if quantisation not in ("8bit", "4bit"):
        raise KvsimError(f"quantisation {quantisation!r}: weights are packed as '8bit' or '4bit'")
    if Path(path_or_id).suffix == ".gguf":
        raise KvsimError(f"{path_or_id}: a GGUF file's weights are unpacked; convert it to a folder to quantise them")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise KvsimError(f"quantisation {quantisation!r} needs the package bitsandbytes: pip install bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a cast at every product of every step
    config = transformers.BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_8bit=quantisation == "8bit",
        load_in_4bit=quantisation == "4bit",
        bnb_4bit_compute_dtype=TORCH_DTYPES[dtype],
    )
    return {"quantization_config": config, "device_map": {"": device}}


def read_shape(path_or_id: Path | str, dtype: DType) -> ModelShape:
    """Return the sizes of a model as `load_model` would load it, from its configuration alone.

    Raises
    ------
    KvsimError
        As `load_model` does.
    """
    return shape_of_config(_read_config(path_or_id, *source_of(path_or_id)), dtype)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model of a GGUF file as bf16 safetensors with its tokenizer, whole or not at all.

    `save_pretrained` refuses a model that was loaded from GGUF, so the weights move into a fresh one.

    Raises
    ------
    KvsimError
        If `gguf` cannot be read as a model, or `folder` is already there.
    """
    if folder.exists():
        raise KvsimError(f"{folder}: already there; remove it to convert again")
    packed, tokenizer = load_model(gguf, "fp32")
    model = type(packed)(packed.config)
    model.load_state_dict(packed.state_dict())
    module: torch.nn.Module = model
    module.to(torch.bfloat16)
    partial = temporary_name(folder)
    try:
        with _quiet():
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        partial.rename(folder)
    except OSError as problem:
        raise KvsimError(f"{folder}: cannot be written: {problem.strerror or problem}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """Convert one GGUF file from the command line; return the exit code."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m kvsim.engine.model.loading GGUF FOLDER\n")
        return 2
    try:
        convert_gguf(Path(arguments[0]), Path(arguments[1]))
    except KvsimError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _read_config(path_or_id: Path | str, source: str, arguments: Mapping[str, Any]) -> Any:
    """Return the configuration of a model that kvsim reads; a model of another type is refused by its name alone."""
    named = path_or_id if "local_files_only" in arguments else f"{path_or_id}: no folder here, and as a hub id"
    if "local_files_only" in arguments and "gguf_file" not in arguments and Path(source).is_dir():
        read_keys(Path(source) / "config.json")
    with _one_line_errors(named), _quiet():
        tables, _ = PreTrainedConfig.get_config_dict(source, **arguments)
        if not isinstance(tables.get("model_type"), str):
            raise KvsimError(f"{path_or_id}: no model_type, which every config.json has")
        check_model_type(tables["model_type"], path_or_id)
        _check_packing(tables, path_or_id)
        if "gguf_file" not in arguments:
            from_config({key: tables[key] for key in tables if key != "quantization_config"}, name=str(path_or_id))
        config = AutoConfig.from_pretrained(source, **arguments)
        check_config(config, path_or_id)
    return config


def _check_packing(tables: Mapping[str, Any], path_or_id: Path | str) -> None:
    """Refuse checkpoints whose weights are packed in a format that is not unpacked as they load."""
    packing = packing_of(tables, {})
    if packing is None:
        return
    table = packing if isinstance(packing, Mapping) else {}
    unnamed = "bitsandbytes" if table.get("load_in_8bit") or table.get("load_in_4bit") else "an unnamed method"
    method = table.get("quant_method") or unnamed
    if method not in ("bitsandbytes", "gguf"):
        raise KvsimError(
            f"{path_or_id}: its weights are packed by {method!r} (quantization_config), which kvsim does not read; "
            "take a checkpoint in bf16, fp16 or fp32, and pack it as it loads with a quantisation of 8bit or 4bit"
        )


def _check_tensors(loading: Mapping[str, Any], model: PreTrainedModel, path_or_id: Path | str) -> None:
    """Refuse weights of which some are not the file's, but random: missing ones, misnamed ones, ones of another size.

    So are those that the model's layers have no use for: they would be left out without a word.
    """
    mismatched = [str(one[0]) for one in loading["mismatched_keys"]]
    missing = [*sorted(loading["missing_keys"]), *mismatched]
    layers = layers_name(model)
    unused = [name for name in sorted(loading["unexpected_keys"]) if f".{name}".find(f".{layers}.") >= 0]
    others = sorted(loading["unexpected_keys"])
    if mismatched and len(missing) == len(mismatched):
        raise KvsimError(f"{path_or_id}: the sizes of {_some(mismatched)} are not those that config.json gives")
    if missing:
        instead = f"; it has {_some(others)} instead" if others else ""
        raise KvsimError(f"{path_or_id}: the weights lack {_some(missing)}{instead}")
    if unused:
        raise KvsimError(
            f"{path_or_id}: the weights have {_some(unused)}, which a model of type {model.config.model_type!r} with "
            "this config.json does not use"
        )


def _some(names: Sequence[str]) -> str:
    """Return up to three names, and how many there are besides."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


@contextlib.contextmanager
def _one_line_errors(name: Path | str) -> Iterator[None]:
    """Turn what transformers and its readers raise on a damaged or unreachable model into one line."""
    try:
        yield
    except KvsimError:
        raise
    except Exception as error:  # the tokenizers library raises nothing narrower
        text = f"transformers has no {error}" if isinstance(error, KeyError) else str(error)
        reason = " ".join(text.split()) or type(error).__name__
        raise KvsimError(f"{name}: cannot load this model: {reason}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the progress bars and advice of transformers, and put both back as they were.

    The bar of its GGUF reader asks nobody, hence the redirection; errors are exceptions and come through.
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
