"""Write the examples of README and docs/plan.md from what `kvsim plan` prints: `python docs/plan.py`."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stdout
from pathlib import Path

from kvsim.cli import run_command

DOCS = Path(__file__).resolve().parent
BEGIN, END = "<!-- example: made by docs/plan.py -->\n", "<!-- end of example -->"
COMMAND = "kvsim plan --model qwen3-8b --gpu rtx-4090 --context 64k --batch 4"
PAGES = {DOCS / "plan.md": "", DOCS.parent / "README.md": "What this rests on"}
"""Where the example stands, and the line from which on it is left out."""


def printed() -> str:
    """Return what the command prints."""
    stream = io.StringIO()
    with redirect_stdout(stream):
        code = run_command(COMMAND.split()[1:])
    assert code == 0
    return stream.getvalue()


def with_example(text: str, example: str, until: str) -> str:
    """Return a page with a new example, up to the line that begins with `until`."""
    shown = example.partition(f"\n{until}")[0] if until else example
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + f"```text\n{shown.rstrip()}\n```\n" + END + rest.partition(END)[2]


def main() -> int:
    """Write the pages."""
    example = printed()
    for page, until in PAGES.items():
        page.write_text(with_example(page.read_text(encoding="utf-8"), example, until), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
