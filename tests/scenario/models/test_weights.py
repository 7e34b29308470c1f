"""Bytes of weights: sizes of published checkpoints, overheads of formats, what stays unpacked."""

from __future__ import annotations

import pytest

from kvsim.errors import ScenarioError
from kvsim.scenario.models.config import from_config
from kvsim.scenario.models.formats import WEIGHT_FORMATS
from kvsim.scenario.models.known import known_model, known_models
from kvsim.scenario.models.memory import packing_of, weight_bytes
from kvsim.scenario.models.tensors import Tensor
from tests.scenario.models.tiny_configs import TINY

LLAMA = {key: value for key, value in TINY["llama"].items() if key not in ("attention_bias", "mlp_bias")}
MATRICES = 4 * (64 * (96 + 48 + 48) + 96 * 64 + 3 * 64 * 112)
"""Numbers of the linear layers of `LLAMA`."""
OTHERS = 2 * 96 * 64 + (4 * 2 + 1) * 64
"""Numbers of its tables and norms."""


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("gpt-oss-20b", 12.8 * 2**30),  # arXiv 2508.10925, table 1: checkpoint size
        ("gpt-oss-120b", 60.8 * 2**30),  # the same
        ("llama-3.1-8b", 14.99 * 2**30),  # vLLM's own log, in its issue 10517
    ],
)
def test_published_weights_take_the_bytes_of_their_checkpoint(name: str, stated: float) -> None:
    assert weight_bytes(known_model(name)) == pytest.approx(stated, rel=0.005)


@pytest.mark.parametrize(
    ("form", "stated_gib"),
    [("q4_0", 5.07), ("q4_1", 5.55), ("q5_k", 6.04), ("q6_k", 7.07), ("q8_0", 9.15)],
)
def test_gguf_files_of_gemma_2_take_the_bytes_that_are_listed(form: str, stated_gib: float) -> None:
    """huggingface.co/RichardErkhov/LlamaFinetuneBase_-_Gemma-2-9B-gguf lists GiB; q5_k is its Q5_K_S."""
    assert weight_bytes(known_model("gemma-2-9b"), form) == pytest.approx(stated_gib * 2**30, rel=0.004)


@pytest.mark.parametrize(
    ("form", "columns", "bits"),
    [
        ("fp8", 4096, 8),
        ("int4", 4096, 4 + (16 + 4) / 128),
        ("nf4", 4096, 4 + 32 / 64),
        ("mxfp4", 4096, 4.25),
        ("nvfp4", 4096, 4.5),
        ("q4_0", 4096, 4.5),
        ("q4_k", 4096, 4.5),
        ("q5_k", 4096, 5.5),
        ("q6_k", 4096, 6.5625),
        ("q8_0", 4096, 8.5),
        ("q4_k", 576, 5.5),  # no multiple of 256: llama.cpp takes q5_0
        ("q6_k", 576, 8.5),  # and q8_0
    ],
)
def test_bits_of_a_number(form: str, columns: int, bits: float) -> None:
    matrix = Tensor(part="mlp", rows=1000, columns=columns, is_linear=True)
    assert 8 * WEIGHT_FORMATS[form].tensor_bytes(matrix) / matrix.numbers == pytest.approx(bits, rel=1e-4)


def test_parts_of_groups_take_whole_groups() -> None:
    matrix = Tensor(part="mlp", rows=10, columns=130, copies=3, is_linear=True)
    assert WEIGHT_FORMATS["int4"].tensor_bytes(matrix) == 3 * (650 + 10 * 2 * 2.5)
    assert WEIGHT_FORMATS["gptq-int4"].tensor_bytes(matrix) == 3 * (650 + 10 * 2 * 2.5 + 4 * 130)
    assert WEIGHT_FORMATS["fp8-block"].tensor_bytes(matrix) == 3 * (1300 + 2 * 4)


def test_tables_and_norms_stay_as_they_are() -> None:
    spec = from_config(LLAMA)
    assert spec.num_parameters == MATRICES + OTHERS
    assert weight_bytes(spec, "fp32") == 4 * (MATRICES + OTHERS)
    assert weight_bytes(spec, "bf16") == 2 * (MATRICES + OTHERS)
    assert weight_bytes(spec, "fp8") == MATRICES + 4 * 7 * 4 + 2 * OTHERS


def test_what_is_not_packed_stays_in_the_published_dtype_of_16_bits() -> None:
    assert packing_of(from_config({**LLAMA, "torch_dtype": "float16"}), "int4")[1].name == "fp16"
    assert packing_of(from_config({**LLAMA, "torch_dtype": "float32"}), "int4")[1].name == "bf16"


def test_a_model_without_a_dtype_needs_a_format() -> None:
    spec = from_config(LLAMA, name="mine")
    with pytest.raises(ScenarioError, match=r"mine: its config.json has no dtype; name a format of weights"):
        weight_bytes(spec)
    with pytest.raises(ScenarioError, match="unknown format of weights 'q4_l'; did you mean"):
        weight_bytes(spec, "q4_l")


@pytest.mark.parametrize("name", known_models())
def test_fewer_bits_never_take_more(name: str) -> None:
    spec = known_model(name)
    fp32, bf16, fp8, int4 = (weight_bytes(spec, form) for form in ("fp32", "bf16", "fp8", "int4"))
    assert fp32 == 2 * bf16 == 4 * spec.num_parameters
    assert int4 < fp8 < bf16
