"""What every command shares: exit codes with faults in one line, and a progress bar where there is a terminal."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from kvsim.errors import KvsimError

INTERRUPTED = 130


def exit_code(app: typer.Typer, arguments: list[str]) -> int:
    """Run one command and return its exit code: 0, 2 for what the user can mend, 130 for Ctrl-C.

    A fault of ours keeps its traceback.
    """
    command = typer.main.get_command(app)
    try:
        code = int(command.main(arguments, prog_name="kvsim", standalone_mode=False) or 0)
        sys.stdout.flush()
    except KvsimError as problem:
        typer.echo(str(problem), err=True)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # whoever read our output, as in `kvsim scenarios | head -1`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as problem:
        if not hasattr(problem, "format_message"):  # how typer's own usage errors are told from all else
            raise
        typer.echo(_usage_line(problem), err=True)
        return 2
    if code == INTERRUPTED:
        typer.echo("interrupted", err=True)
    return code


def command_text() -> str:
    """Return what the user typed, for manifests and headers."""
    return shlex.join(["kvsim", *sys.argv[1:]])


def need_torch(command: str) -> None:
    """Refuse `command` where the optional extra is not installed.

    Raises
    ------
    KvsimError
        With what to install.
    """
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        raise KvsimError(f'{command} needs torch and transformers: pip install "kvsim[torch]"')


class Bar:
    """A progress bar on standard error where that is a terminal; nothing in a pipe."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def advance(self, share: float) -> None:
        """Move on by a share of the whole."""
        self._progress.update(self._task, advance=share)

    def stage(self, name: str, done: float, total: float) -> None:
        """Say how much of a stage is done."""
        self._progress.update(self._task, description=name, completed=done, total=total)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(label: str) -> Iterator[Bar]:
    """Show a bar while the block runs."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        yield Bar(progress, progress.add_task(label, total=1.0))


def _usage_line(problem: Any) -> str:
    """Return what typer would print over several lines, in one."""
    context = getattr(problem, "ctx", None)
    path = context.command_path if context else "kvsim"
    return f"{' '.join(problem.format_message().split())} (see `{path} --help`)"
