"""Configurations with any value in any key: they are read, or refused in one line."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.errors import ScenarioError
from kvsim.scenario.models.config import from_config
from kvsim.scenario.models.describe import describe
from kvsim.scenario.models.known import known_models
from tests.scenario.models.tiny_configs import TINY

ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10)
    | st.sampled_from([0, 1, 10**9, 10**30, 1.5, float("nan"), "", "auto", "full_attention", "gptq", "fp8", "4bit"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["bits", "weights", "a"]), inner),
    max_leaves=6,
)
PACKING_KEYS = ("bits", "group_size", "ignore", "config_groups", "weight_block_size", "quant_algo", "zero_point")
METHODS = ("gptq", "awq", "fp8", "mxfp4", "bitsandbytes", "modelopt", "compressed-tensors")


def read(config: Any) -> None:
    """Read and show a configuration; anything but a model or one line is an error of ours."""
    try:
        describe(from_config(config, name="mine"))
    except ScenarioError as problem:
        assert "\n" not in str(problem)
        assert len(str(problem)) < 1500


@settings(max_examples=400)
@given(data=st.data(), model_type=st.sampled_from(sorted(TINY)), num_changes=st.integers(1, 3))
def test_any_value_in_any_key_is_read_or_refused(data: st.DataObject, model_type: str, num_changes: int) -> None:
    config = copy.deepcopy(TINY[model_type])
    for _ in range(num_changes):
        config[data.draw(st.sampled_from(sorted(config)))] = data.draw(ANY)
    read(config)


@settings(max_examples=200)
@given(method=st.sampled_from(METHODS), table=st.dictionaries(st.sampled_from(PACKING_KEYS), ANY))
def test_any_table_of_packed_weights_is_read_or_refused(method: str, table: dict[str, Any]) -> None:
    read({**TINY["qwen3_moe"], "torch_dtype": "bfloat16", "quantization_config": {"quant_method": method, **table}})


@given(data=st.data(), name=st.sampled_from(sorted(known_models())))
def test_a_model_without_any_one_of_its_keys_is_read_or_refused(data: st.DataObject, name: str) -> None:
    config = copy.deepcopy(dict(known_models()[name].config))
    text = config.get("text_config", config)
    del text[data.draw(st.sampled_from(sorted(text)))]
    read(config)
