"""`kvsim plan` on the command line: text, JSON, files, and one line for every wrong input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kvsim.cli import run_command
from tests.cli.typed import refusal

ROOFLINE = ["plan", "--model", "deepseek-v3", "--gpu", "h200", "--context", "64k"]
SIMULATED = ["plan", "--model", "llama-3.2-1b", "--gpu", "rtx-3060", "--context", "8k"]


def test_it_prints_memory_options_recommendation_and_assumptions(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(SIMULATED) == 0
    out = capsys.readouterr().out
    parts = ["memory ", "option ", "Recommended: all on the card", "What this rests on", "To reproduce it"]
    places = [out.index(part) for part in parts]
    assert places == sorted(places)
    assert max(map(len, out.splitlines()[:-5])) <= 140


def test_json_has_the_same_answer_and_files_are_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = ["-o", str(tmp_path / "plan.toml"), "--picture", str(tmp_path / "plan.png")]
    assert run_command([*SIMULATED, "--json", *files]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["kind"] == "plan" and answer["recommended"] in [option["name"] for option in answer["options"]]
    assert answer["commands"][0] == f"kvsim run {tmp_path / 'plan.toml'}"
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert run_command(["check", str(tmp_path / "plan.toml")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "rtx-4O90"], "did you mean 'rtx-4090'"),
        (["--gpu", "rtx-4080"], "did you mean 'rtx-4080-super'"),
        (["--gpu", "none.toml"], "none.toml: no such file"),
        (["--model", "lama-3.2-1b"], "did you mean 'llama-3.2-1b'"),
        (["--context", "far"], "'far': write a number"),
        (["--context", "0"], "context should be at least 512"),
        (["--batch", "0"], "batch should be at least 1"),
        (["--weights", "int5"], "did you mean 'int8'"),
        (["--kv", "int4"], "no table of kernels has it"),
        (["--model", "qwen3-30b-a3b", "--weights", "int8"], "experts in int8"),
        (["--tpot", "50"], "write a number and a unit"),
        (["--tpot", "0ms"], "tpot should be above 0"),
        (["--recall", "90"], "recall should be above 0 and at most 1"),
        (["--host-memory", "0"], "host memory should be above 0"),
        (["--utilisation", "1.5"], "utilisation should be above 0 and at most 1"),
        (["--step-tokens", "0"], "step tokens should be at least 1"),
        (["--model", "gpt2"], "learned embeddings for 1,024 positions"),
        (["-o", "/proc/plan.toml"], "cannot be written"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, *SIMULATED, *arguments)


def test_the_commands_that_it_recommends_have_the_options_that_they_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*SIMULATED, "--json"]) == 0
    commands = json.loads(capsys.readouterr().out)["commands"]
    assert [command.split()[1] for command in commands] == ["plan", "run", "calibrate", "capture", "run"]
    for command in commands:
        name, *words = command.split()[1:]
        assert run_command([name, "--help"]) == 0
        known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", capsys.readouterr().out))
        assert {word for word in words if word.startswith("-")} <= known


def test_a_card_without_memory_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    card = tmp_path / "mine.toml"
    card.write_text(
        'name = "mine"\ntitle = "Mine"\nvendor = "nvidia"\nmemory_bytes = "0 GiB"\n'
        "memory_bandwidth_bytes_per_s = 1_000_000_000_000\nbf16_flop_per_s = 1e14\n"
        'link = "PCIe 4.0 x16"\nlink_nominal_bytes_per_s = 32_000_000_000\nlink_achieved_bytes_per_s = 25_000_000_000\n'
    )
    assert "memory_bytes" in refusal(capsys, *SIMULATED, "--gpu", str(card))
    card.write_text(card.read_text().replace('"0 GiB"', '"12 GiB"'))
    assert run_command([*SIMULATED, "--gpu", str(card)]) == 0


def test_what_has_no_scenario_is_refused_before_anything_is_printed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "has no scenario" in refusal(capsys, *ROOFLINE, "-o", str(tmp_path / "plan.toml"))
    assert not list(tmp_path.iterdir())


def test_it_answers_without_torch_pandas_or_a_compiled_step() -> None:
    """The answer takes three seconds after an installation: half a minute of compiling is not among them."""
    script = (
        "import sys\nfrom kvsim.cli import run_command\n"
        f"assert run_command({SIMULATED!r}) == 0\n"
        "assert not {'torch', 'transformers', 'pandas', 'matplotlib', 'scipy.stats'} & set(sys.modules)\n"
        "from kvsim.kernels.step.step import go_on\nassert not go_on.signatures, go_on.signatures\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
