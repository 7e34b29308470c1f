"""Whatever a scenario file or an override holds, the error is a scenario's, in lines."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvsim.errors import ScenarioError
from kvsim.scenario.decode import Scenario, load_scenario
from tests.scenario.test_scenario import GOOD

SCALARS = (
    st.text(max_size=12)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.booleans()
    | st.dates()
    | st.sampled_from(["lru", "4 GiB", "top-k", "mass", "estimate:", "llama-3-8b", 1, 16, 0.5])
)
KEYS = st.sampled_from(
    (*Scenario.model_fields, "shape", "path", "extrapolate", "context_tokens", "bytes", "k_pages", "policies", "str")
    + ("budget.bytes", "run.seed", "a.b.c", "", ".", "sweep.sweep", "trace.extrapolate.context_tokens")
) | st.text(max_size=6)
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(changes=st.dictionaries(KEYS, TREES, max_size=4), keep_good=st.booleans())
def test_no_toml_raises_anything_but_a_scenario_error_of_whole_lines(
    tmp_path: Path, changes: dict[str, Any], keep_good: bool
) -> None:
    path = tmp_path / "fuzz.toml"
    path.write_text(tomli_w.dumps(changes), encoding="utf-8")
    if keep_good:
        path.write_text(tomli_w.dumps(tomllib.loads(GOOD) | changes), encoding="utf-8")
    try:
        scenario = load_scenario(path)
        assert scenario.cells
    except ScenarioError as problem:
        for line in str(problem).splitlines():
            assert line.startswith(f"{path}: ")
            assert len(line) < len(str(path)) + 400


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_no_bytes_raise_anything_but_a_scenario_error(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "junk.toml"
    path.write_bytes(junk)
    with pytest.raises(ScenarioError):
        load_scenario(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=KEYS, value=st.text(max_size=20) | st.sampled_from(["[1]", "{a=1}", "nan", "[[]]", "0x" + "f" * 5000]))
def test_no_override_raises_anything_but_a_scenario_error(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "good.toml"
    path.write_text(GOOD, encoding="utf-8")
    try:
        _ = load_scenario(path, [f"{key}={value}"]).cells
    except ScenarioError as problem:
        assert str(problem)
