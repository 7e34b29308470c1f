"""What every command shares: exit codes, errors in one line, names that no terminal obeys, and a progress bar."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TextIO, cast

import typer

from kvsim.errors import KvsimError

INTERRUPTED = 130
_STDOUT = 1
"""The number of the file that a process's standard output is."""

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What a terminal obeys instead of showing, line ends and tabs apart: controls, and what turns the order of writing."""


def printable(text: str) -> str:
    r"""Return `text` with what a terminal would obey written as JSON writes it.

    Examples
    --------
    >>> printable("a\x1b[2Jb")
    'a\\u001b[2Jb'
    """
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


@contextmanager
def _as_refusal() -> Iterator[None]:
    """Report that standard output takes nothing more, as on a full disk; a reader that went away is no error."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise KvsimError(f"standard output: cannot be written: {problem.strerror}") from None


class _Printable:
    """A text stream that writes what is `printable`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _as_refusal():
            self._stream.write(printable(text))
        return len(text)

    def flush(self) -> None:
        with _as_refusal():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _printable_output() -> Iterator[None]:
    """Let nothing that commands print move a terminal's cursor, whatever names are in it, while the block runs."""
    stream = sys.stdout
    sys.stdout = cast("TextIO", _Printable(stream or io.StringIO()))  # there is none where the shell closed it
    try:
        yield
    finally:
        sys.stdout = stream


@contextmanager
def _own_standard_output() -> Iterator[None]:
    """Send what anything else writes to standard output, a subprocess or a C library, to standard error.

    ``sys.stdout`` still writes where it did, so that ``--json`` prints JSON alone. Where it is not the process's own
    standard output, nothing is changed.
    """
    stream = sys.stdout
    try:
        is_own = stream.fileno() == _STDOUT and sys.stderr.fileno() >= 0
    except (AttributeError, OSError, ValueError):  # closed, a test's, or a notebook's
        is_own = False
    if not is_own:
        yield
        return
    stream.flush()
    saved = os.dup(_STDOUT)
    own = os.fdopen(os.dup(saved), "w", encoding=stream.encoding, errors=stream.errors)
    try:
        sys.stdout = own
        os.dup2(sys.stderr.fileno(), _STDOUT)
        yield
    finally:
        sys.stdout = stream
        os.dup2(saved, _STDOUT)
        os.close(saved)
        with suppress(OSError):  # what could not be written was reported
            own.close()


def drop_unwritten() -> None:
    """Drop what standard output did not take: it was reported, and Python would report it again at its end."""
    stream = sys.__stdout__
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def exit_code(app: typer.Typer, arguments: list[str]) -> int:
    """Run one command and return its exit code: 0, 2 for what the user can correct, 130 for Ctrl-C.

    An internal error keeps its traceback.
    """
    command = typer.main.get_command(app)
    try:
        with _own_standard_output() if "--json" in arguments else nullcontext(), _printable_output():
            code = int(command.main(arguments, prog_name="kvsim", standalone_mode=False) or 0)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KvsimError as problem:
        typer.echo(printable(str(problem)), err=True)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # whoever read our output, as in `kvsim scenarios | head -1`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as problem:
        if not hasattr(problem, "format_message"):  # how typer's own usage errors differ from all else
            raise
        typer.echo(printable(_usage_line(problem)), err=True)
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
        raise KvsimError(f"{command} needs torch and transformers: {install_line('torch')}")


def install_line(extra: str) -> str:
    """Return the command that installs what an optional extra of kvsim asks for, wherever kvsim came from."""
    try:
        asked = importlib.metadata.requires("kvsim") or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder that was never installed
        asked = []
    marker = f'extra=="{extra}"'
    packages = [text.partition(";")[0].strip() for text in asked if marker in text.replace(" ", "").replace("'", '"')]
    return shlex.join(["pip", "install", *(packages or [extra, "transformers"])])


class Bar:
    """What shows how far a command has come: nothing, where standard error is a pipe."""

    def advance(self, share: float) -> None:
        """Move on by a share of the whole."""

    def stage(self, name: str, done: float, total: float) -> None:
        """Show how much of a stage is done."""

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        typer.echo(printable(text), err=True)


class _TerminalBar(Bar):
    """A progress bar on a terminal."""

    def __init__(self, progress: Any, label: str) -> None:
        self._progress, self._task = progress, progress.add_task(printable(label), total=1.0)

    def advance(self, share: float) -> None:
        self._progress.update(self._task, advance=share)

    def stage(self, name: str, done: float, total: float) -> None:
        self._progress.update(self._task, description=printable(name), completed=done, total=total)

    def say(self, text: str) -> None:
        self._progress.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(label: str) -> Iterator[Bar]:
    """Show a bar while the block runs."""
    if not sys.stderr.isatty():
        yield Bar()
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        yield _TerminalBar(progress, label)


def _usage_line(problem: Any) -> str:
    """Return what typer would print over several lines, in one."""
    context = getattr(problem, "ctx", None)
    path = context.command_path if context else "kvsim"
    return f"{' '.join(problem.format_message().split())} (see `{path} --help`)"
