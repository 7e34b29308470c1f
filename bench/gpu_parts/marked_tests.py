"""The tests that need a GPU, run where there is one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gpu_parts.jobs import LeftOutError, Outcome, Setting, write_text

TESTS = Path(__file__).parents[2] / "tests" / "engine"


def run_marked(setting: Setting) -> Outcome:
    """Run the tests marked ``gpu`` and keep what pytest says."""
    if setting.device == "cpu":
        raise LeftOutError("tests marked gpu need one")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(TESTS)]
    told = subprocess.run(command, cwd=TESTS.parents[1], capture_output=True, text=True, check=False)
    path = write_text(setting.folder("engine") / "tests.txt", told.stdout + told.stderr)
    last = told.stdout.strip().splitlines()[-1] if told.stdout.strip() else "pytest said nothing"
    if told.returncode:
        raise RuntimeError(f"{last}; see {path}")
    return Outcome(headline=last, files=[path])
