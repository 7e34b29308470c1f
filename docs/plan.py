"""Write the example of docs/plan.md from what `kvsim plan` prints: `python docs/plan.py`; a test compares."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout
from pathlib import Path

from kvsim.cli import run_command

PAGE = Path(__file__).resolve().parent / "plan.md"
BEGIN, END = "<!-- example: made by docs/plan.py -->\n", "<!-- end of example -->"
COMMAND = "kvsim plan --model qwen3-8b --gpu rtx-4090 --context 32k --batch 4"


def example() -> str:
    """Return the command and what it prints, as Markdown."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = run_command(COMMAND.split()[1:])
    assert code == 0
    return f"```text\n$ {COMMAND}\n{printed.getvalue().rstrip()}\n```\n"


def with_example(text: str) -> str:
    """Return the page with a new example."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + example() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_example(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
