"""What a user may write for a model: names, paths and hub ids of the local cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvsim.errors import ScenarioError
from kvsim.scenario.models.find import cached_config, find_model, hub_cache
from kvsim.scenario.models.known import known_model
from tests.scenario.models.tiny_configs import TINY

FORMER_NAMES = (
    "smollm2-135m",
    "llama-3.2-1b",
    "llama-3.2-3b",
    "llama-3-8b",
    "llama-3-70b",
    "qwen2.5-7b",
    "mistral-7b",
    "gemma-2-9b",
)


@pytest.mark.parametrize("name", FORMER_NAMES)
def test_names_of_scenarios_that_exist_stay(name: str) -> None:
    assert find_model(name).name == name


def test_a_hub_id_of_a_model_that_ships_is_that_model() -> None:
    assert find_model("qwen/qwen3-8B") == find_model("QWEN3-8b") == known_model("qwen3-8b")


def test_a_path_is_relative_to_the_given_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(TINY["olmo2"]))
    for text in ("mine", "mine/config.json", str(tmp_path / "mine")):
        assert find_model(text, base_dir=tmp_path).model_type == "olmo2"


def test_a_hub_id_is_looked_up_in_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--me--mine"
    for revision, model_type in (("aaa", "olmo2"), ("bbb", "glm4")):
        folder = repository / "snapshots" / revision
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(TINY[model_type]))
    assert find_model("me/mine").model_type == "olmo2"
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("bbb\n")
    assert find_model("me/mine").model_type == "glm4"
    assert find_model("me/mine").name == "me/mine"
    assert cached_config("../../etc") is None


def test_the_cache_is_where_huggingface_hub_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert hub_cache() == Path.home() / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert hub_cache() == Path("/x/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/h")
    assert hub_cache() == Path("/h/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/c")
    assert hub_cache() == Path("/c")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("qwen3-8", r"no such path, and no model that ships; did you mean 'qwen3-8b'\?"),
        ("zzz", r"no such path, and no model that ships; \d+ models ship, such as qwen3-8b"),
        (
            "you/qwen3-8bb",
            r"no config.json of it in .*; download the model's config.json .*; did you mean 'qwen3-8b'\?",
        ),
    ],
)
def test_what_is_nowhere_is_one_line(text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ScenarioError, match=words) as problem:
        find_model(text)
    assert len(str(problem.value)) < 300
    with pytest.raises(ScenarioError, match="unknown model"):
        known_model(text)
