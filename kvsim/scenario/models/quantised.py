"""Reads how a published checkpoint packs its weights, and which of them it leaves alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kvsim.scenario.models.fields import UnsupportedError
from kvsim.scenario.models.formats import PACKED_PARTS, WEIGHT_FORMATS, Quantisation, WeightFormat, grouped
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.tensors import Part


def read_quantisation(config: Mapping[str, Any], keys: Mapping[str, Any], spec: ModelSpec) -> Quantisation | None:
    """Return how the weights are packed; None where they are not.

    Raises
    ------
    UnsupportedError
        If the format, or a layer that it leaves alone, is none that kvsim knows.
    """
    table = packing_of(config, keys)
    if table is None:
        return None
    if not isinstance(table, Mapping):
        raise UnsupportedError("a quantization_config that is no table")
    method = str(table.get("quant_method") or "")
    if method not in _READERS:
        raise UnsupportedError(f"weights packed by {method or 'an unnamed method'!r}; it reads {', '.join(_READERS)}")
    form = _READERS[method](table)
    ignored = [word for key in _IGNORED_KEYS for word in _words(table, key)]
    return _with_ignored(form, ignored, spec, only_experts=method == "mxfp4")


def packing_of(config: Mapping[str, Any], keys: Mapping[str, Any]) -> Any:
    """Return what a configuration, or its text part, says of packed weights; None where that is nothing."""
    tables = [part[key] for part in (config, keys) for key in _TABLES if part.get(key) is not None]
    return next((table for table in tables if table != {}), None)


_TABLES = ("quantization_config", "compression_config", "quantization")
"""Keys under which tools say how weights are packed: all, older compressed-tensors, and MLX."""


def _words(table: Mapping[str, Any], key: str) -> list[str]:
    """Return the entries of a list of modules; none where there is no list."""
    value = table.get(key) or []
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise UnsupportedError(f"quantised weights with {key} = {value!r}"[:120])
    return value


_IGNORED_KEYS = ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules", "llm_int8_skip_modules")


def _gptq(table: Mapping[str, Any]) -> WeightFormat:
    bits, group = _whole(table, "bits"), _group(table)
    return grouped(f"gptq-int{bits}", bits, group, zero_bits=bits, order=True)


def _awq(table: Mapping[str, Any]) -> WeightFormat:
    bits = _whole(table, "bits" if "bits" in table else "w_bit")
    return grouped(f"awq-int{bits}", bits, _group(table), zero_bits=bits if table.get("zero_point", True) else 0)


def _fp8(table: Mapping[str, Any]) -> WeightFormat:
    block = table.get("weight_block_size")
    if block is None:
        return WEIGHT_FORMATS["fp8"]
    if not isinstance(block, list) or len(block) != 2 or not all(isinstance(size, int) and size > 0 for size in block):
        raise UnsupportedError(f"weight_block_size {block!r}"[:80])
    return WeightFormat(name="fp8-block", bits=8, block_rows=block[0], block_columns=block[1], block_bytes=4)


def _mxfp4(table: Mapping[str, Any]) -> WeightFormat:
    del table
    return WEIGHT_FORMATS["mxfp4"]


def _bitsandbytes(table: Mapping[str, Any]) -> WeightFormat:
    if table.get("load_in_8bit"):
        return WEIGHT_FORMATS["int8"]
    if not table.get("load_in_4bit"):
        raise UnsupportedError("a bitsandbytes table that asks for neither 4 nor 8 bits")
    if table.get("bnb_4bit_use_double_quant"):
        # an 8-bit scale for 64 numbers, and a float32 one for 256 of those
        return WeightFormat(name="nf4-double", bits=4, block_columns=64, block_bytes=1 + 4 / 256, is_flat=True)
    return WEIGHT_FORMATS["nf4"]


def _modelopt(table: Mapping[str, Any]) -> WeightFormat:
    algorithm = str(table.get("quant_algo") or "").upper()
    formats = {"FP8": "fp8", "NVFP4": "nvfp4"}
    if algorithm not in formats:
        raise UnsupportedError(f"weights packed by modelopt as {algorithm or 'nothing'!r}")
    return WEIGHT_FORMATS[formats[algorithm]]


def _compressed(table: Mapping[str, Any]) -> WeightFormat:
    groups = table.get("config_groups")
    tables = list(groups.values()) if isinstance(groups, Mapping) else []
    if len(tables) != 1:
        raise UnsupportedError(f"compressed tensors in {len(tables)} groups")
    weights = tables[0].get("weights") if isinstance(tables[0], Mapping) else None
    if not isinstance(weights, Mapping):
        raise UnsupportedError("compressed tensors that do not say how weights are packed")
    bits, strategy = _whole(weights, "num_bits"), str(weights.get("strategy"))
    is_float = weights.get("type") == "float"
    if is_float and bits == 4:
        return WEIGHT_FORMATS["nvfp4" if weights.get("group_size") == 16 else "mxfp4"]
    if strategy == "block":
        return _fp8({"weight_block_size": weights.get("block_structure")})
    if strategy == "tensor":
        return WEIGHT_FORMATS["fp8"]
    if strategy not in ("channel", "group"):
        raise UnsupportedError(f"compressed tensors with the strategy {strategy!r}")
    group = _group(weights) if strategy == "group" else None
    name = f"{'fp' if is_float else 'int'}{bits}"
    return grouped(name, bits, group, zero_bits=0 if weights.get("symmetric", True) else bits)


_READERS = {
    "gptq": _gptq,
    "awq": _awq,
    "fp8": _fp8,
    "mxfp4": _mxfp4,
    "bitsandbytes": _bitsandbytes,
    "modelopt": _modelopt,
    "compressed-tensors": _compressed,
}


def _whole(table: Mapping[str, Any], key: str) -> int:
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 16:
        raise UnsupportedError(f"quantised weights of {value!r} bits ({key})"[:80])
    return value


def _group(table: Mapping[str, Any]) -> int | None:
    """Return the inputs that share a scale; -1 in a file is a whole row."""
    value = table.get("group_size", table.get("q_group_size"))
    if value == -1:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UnsupportedError(f"quantised weights in groups of {value!r} (group_size)"[:80])
    return value


_MODULES: tuple[tuple[str, frozenset[Part]], ...] = (
    (r"lm_head|embed|visual|vision|audio|projector|norm|router|gate$|e_score_correction_bias|mtp|eh_proj", frozenset()),
    (r"shared_expert", frozenset({"shared experts"})),
    (r"experts", frozenset({"experts"})),
    (r"self_attn|attention|attn|indexer|kv_b_proj", frozenset({"attention"})),
    (r"mamba|linear_attn|conv1d|mixer", frozenset({"state"})),
    (r"mlp|feed_forward|fc1|fc2", frozenset({"mlp"})),
)
"""What names of modules are about, the first that fits; nothing where no format packs them anyway."""


def _with_ignored(form: WeightFormat, ignored: Iterable[str], spec: ModelSpec, *, only_experts: bool) -> Quantisation:
    parts: set[Part] = set(PACKED_PARTS - {"experts"}) if only_experts else set()
    single: set[tuple[int, Part]] = set()
    for word in ignored:
        about = _parts_of(word)
        layers = _layers_of(word, len(spec.layers))
        if layers is None:
            parts |= about
        else:
            single |= {(index, part) for index in layers for part in about}
    return Quantisation(
        form=form,
        unpacked=frozenset(parts),
        unpacked_layers=tuple(sorted(entry for entry in single if entry[1] not in parts)),
    )


def _layers_of(word: str, num_layers: int) -> list[int] | None:
    """Return the layers that an entry of a list of modules is about; None for all."""
    plain = word.replace("\\", "")
    if re.search(r"layers\.[\[(]", plain):
        raise UnsupportedError(f"quantised weights that leave out {word[:60]!r}")
    place = re.search(r"layers\.(\d+)(\*?)", plain)
    if place is None:
        return None
    if place[2]:  # "1*" is 1 and 10 to 19
        return [index for index in range(num_layers) if str(index).startswith(place[1])]
    return [int(place[1])] if int(place[1]) < num_layers else []


def _parts_of(word: str) -> frozenset[Part]:
    """Return the parts that an entry of a list of modules is about."""
    tail = re.sub(r"^(re:)?\.?\*?|\.?\*$", "", word.replace("\\", ""))
    for pattern, parts in _MODULES:
        if re.search(pattern, tail):
            return parts
    if re.search(r"layers\.\d+$", tail):
        return PACKED_PARTS
    raise UnsupportedError(f"quantised weights that leave out {word[:60]!r}")
