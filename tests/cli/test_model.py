"""``kvsim model`` and ``kvsim card`` as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvsim.cli import run_command
from kvsim.profile.cards.load import card_names
from kvsim.scenario.models.known import known_model, known_models
from tests.cli.typed import refusal

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run_command(list(arguments)) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_every_model_that_ships_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = output(capsys, "model", "list").splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + len(known_models())]] == list(known_models())
    assert max(map(len, lines)) <= 180
    rows = {row["name"]: row for row in json.loads(output(capsys, "model", "list", "--json"))}
    assert rows["qwen3-8b"]["num_parameters"] == known_model("qwen3-8b").num_parameters
    assert rows["qwen3-8b"]["token_bytes"] == 36 * 2 * 8 * 128 * 2
    assert rows["qwen3-8b"]["not_paged"] == ""
    assert rows["gemma-2-9b"]["not_paged"] == ""
    assert "window" in rows["mistral-7b-v0.1"]["not_paged"]


@pytest.mark.parametrize("name", ["qwen3-8b", "gemma-3-4b", "deepseek-v3.2", "falcon-h1-0.5b", "gpt2", "Qwen/Qwen3-8B"])
def test_a_model_is_shown_whole(capsys: pytest.CaptureFixture[str], name: str) -> None:
    shown = output(capsys, "model", "show", name)
    assert f"{known_model(name).num_parameters:,} parameters" in shown
    assert "Configuration: " in shown
    assert json.loads(output(capsys, "model", "show", name, "--json"))["num_parameters"] > 0


def test_a_cache_in_another_format_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    whole, half = (output(capsys, "model", "show", "qwen3-8b", "--kv", kv) for kv in ("bf16", "fp8"))
    assert "0 + 147,456 x tokens" in whole
    assert "0 + 73,728 x tokens" in half


def test_a_folder_and_a_file_are_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    for place in (tmp_path, tmp_path / "config.json"):
        shown = output(capsys, "model", "show", str(place))
        assert "4 heads, 2 KV heads of 16" in shown
        assert "Configuration: " not in shown


def test_every_card_that_ships_is_a_line_and_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    lines = output(capsys, "card", "list").splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + len(card_names())]] == list(card_names())
    assert len(json.loads(output(capsys, "card", "list", "--json"))) == len(card_names())
    for name in card_names():
        assert "memory_bandwidth_bytes_per_s" in output(capsys, "card", "show", name)


def test_a_card_is_shown_with_sources(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown = output(capsys, "card", "show", "rtx-4090")
    assert "26.2 GB/s  github.com/NVIDIA/nvbandwidth" in shown
    assert "its architecture, sm_89" in shown
    assert json.loads(output(capsys, "card", "show", "rtx-4090", "--json"))["sources"]["memory_bytes"]
    own = tmp_path / "mine.toml"
    figures = 'memory_bytes = "16 GiB"\nmemory_bandwidth_bytes_per_s = "500 GB"\nfp16_flop_per_s = 60e12\n'
    own.write_text(f"{figures}unified_memory = true\n")
    shown = output(capsys, "card", "show", str(own))
    assert "one memory with the processor" in shown
    assert "other vendors' cards" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "show", "qwen3-8"], "did you mean 'qwen3-8b'"),
        (["model", "show", "no/such/folder"], "no such path"),
        (["model", "show", "qwen3-8b", "--kv", "fp9"], "did you mean 'fp8'"),
        (["card", "show", "rtx-409"], "did you mean 'rtx-4090'"),
        (["card", "show", "mine.toml"], "mine.toml"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in refusal(capsys, *arguments)
