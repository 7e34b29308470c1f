"""README says what is so: its commands are those of the command line, its blocks are tagged."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from kvsim.policies import POLICIES
from tests.scripts import ROOT, load_script

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def readme() -> ModuleType:
    return load_script("docs/readme.py")


def test_the_table_of_commands_is_that_of_the_command_line(readme: ModuleType) -> None:
    text = readme.COMMANDS.read_text(encoding="utf-8")
    assert text == readme.HEAD + readme.commands_table(), "run: python docs/readme.py commands"


def test_readme_is_short() -> None:
    assert README.count("\n") <= 200


def test_every_command_block_is_tagged(readme: ModuleType) -> None:
    blocks = readme.blocks_of(README)
    others = r"(?:text|python)\b"  # output, and an example
    assert len(blocks) == len(re.findall(rf"^```(?!{others})\w", README, flags=re.MULTILINE))
    assert {tag for tag, _ in blocks} == set(readme.TAGS)


def test_a_short_block_gets_quick_behind_every_kvsim_command(readme: ModuleType) -> None:
    assert readme.shortened("ls\nkvsim calibrate -o x\n") == "ls\nkvsim calibrate -o x --quick\n"


def test_blocks_run_in_order_and_stop_at_the_first_failure(
    readme: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    text = "```sh run\necho one > a\n```\n```sh skip\necho two > a\n```\n```sh run\ncat a > b\n```\n"
    assert readme.run_blocks(text) == 2
    assert (tmp_path / "b").read_text() == "one\n"
    with pytest.raises(readme.subprocess.CalledProcessError):
        readme.run_blocks("```sh run\nfalse\n```\n```sh run\necho never > c\n```\n")
    assert not (tmp_path / "c").exists()


def test_documents_name_every_policy_and_make_knows_what_readme_says() -> None:
    for policy in POLICIES:
        assert f"| `{policy}` |" in (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {target for line in re.findall(r"\bmake ([a-z- ]+)", README) for target in line.split() if "-" in target}
    assert {"demo", "test"} <= set(re.findall(r"\bmake (\w+)", README))
    assert named <= targets
