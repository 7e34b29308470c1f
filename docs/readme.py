"""Run README's command blocks, and write docs/commands.md from the command line itself.

The tag after ``sh`` says how a block is run: ``run`` unchanged, ``short`` with ``--quick`` after every kvsim command,
``skip`` not at all.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import typer

from kvsim.cli import app

README = Path(__file__).resolve().parent.parent / "README.md"
COMMANDS = Path(__file__).with_name("commands.md")
HEAD = """# Commands

Made by `python docs/readme.py commands`. `kvsim COMMAND --help` explains every option.

"""
TAGS = ("run", "short", "skip")
_BLOCK = re.compile(r"^```(?:sh|bash|console)\b[ \t]*(?P<tag>[^\n]*)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)


def blocks_of(text: str) -> list[tuple[str, str]]:
    """Return each command block's tag and text."""
    return [(match["tag"].strip(), match["text"]) for match in _BLOCK.finditer(text)]


def shortened(text: str) -> str:
    """Return a block with ``--quick`` after every kvsim command."""
    return re.sub(r"^(kvsim .*[^\\\n])$", r"\1 --quick", text, flags=re.MULTILINE)


def run_blocks(text: str) -> int:
    """Run every block that is not skipped, one after another in the same folder; return the number of blocks."""
    number = 0
    for tag, block in blocks_of(text):
        if tag == "skip":
            continue
        number += 1
        script = shortened(block) if tag == "short" else block
        print(f"--- {tag}\n{script}", end="", flush=True)
        start_s = time.perf_counter()
        subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=README.parent, check=True)
        print(f"--- took {time.perf_counter() - start_s:.1f} s", flush=True)
    return number


def commands_table() -> str:
    """Return the table of commands as Markdown, read from the command line itself."""
    rows = ["| command | what it does |", "| --- | --- |"]
    rows += [f"| `{usage}` | {what} |" for usage, what in _commands(typer.main.get_command(app), "kvsim")]
    return "\n".join(rows) + "\n"


def _commands(group: Any, path: str) -> list[tuple[str, str]]:
    found = []
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found += _commands(command, f"{path} {name}")
        else:
            parts = [f"{path} {name}", *(_usage(parameter) for parameter in command.params)]
            found.append((" ".join(parts), " ".join(str(command.help).split("\n\n")[0].split())))
    return found


def _usage(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    name = max(parameter.opts, key=len)
    if parameter.is_flag:
        text = name
        if parameter.secondary_opts and parameter.default is not False:  # a flag that is on, or that is neither
            off = parameter.secondary_opts[0]
            text = off if parameter.default else f"{name}\\|{off}"
    else:
        value = str(parameter.metavar or parameter.name.upper()).replace("|", "\\|")
        text = f"{name} {value}"
    return text if parameter.required else f"[{text}]"


def main(arguments: list[str]) -> int:
    """Run the command that the first argument names; return the exit code."""
    if arguments == ["run"]:
        return 0 if run_blocks(README.read_text(encoding="utf-8")) else 1
    if arguments == ["commands"]:
        COMMANDS.write_text(HEAD + commands_table(), encoding="utf-8")
        return 0
    sys.stderr.write("usage: python docs/readme.py run|commands\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
