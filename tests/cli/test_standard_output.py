"""Standard output that is full or closed: a line and exit code 2, or what can be done without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")


def run(arguments: str, redirection: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m kvsim {arguments} {redirection}"
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)


@pytest.mark.skipif(not FULL.exists(), reason="this system has no full device")
@pytest.mark.parametrize("arguments", ["scenarios", "card list", "model show qwen3-8b --json"])
def test_a_full_one_is_a_line(arguments: str) -> None:
    ended = run(arguments, f"> {FULL}")
    assert (ended.returncode, ended.stderr) == (2, "standard output: cannot be written: No space left on device\n")


@pytest.mark.parametrize("arguments", ["scenarios", "model show qwen3-8b --json"])
def test_a_closed_one_is_done_without(arguments: str) -> None:
    ended = run(arguments, ">&-")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_json_is_printed_where_standard_error_is_closed() -> None:
    arguments = "model show qwen3-8b --json"
    assert run(arguments, "2>&-").stdout == run(arguments, "").stdout != ""
