"""Where commands write: checked, and folders made, before long work begins; what came out is shown if writing fails."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from kvsim.errors import KvsimError, ResultError

if TYPE_CHECKING:
    from kvsim.report.html.page import Page

T = TypeVar("T")


def named(text: str | Path) -> Path:
    """Return the path that an option names.

    Raises
    ------
    ResultError
        If it names none.
    """
    if not str(text).strip():
        raise ResultError("--output: an empty name; write . for the current folder, or leave --output out")
    return Path(text)


def output_folder(folder: Path, name: str | None = None) -> Path:
    """Return `folder`, made where there is none, once something can be written into it.

    Parameters
    ----------
    name
        What is written into it, where that is known: a folder of this name or none may be there.

    Raises
    ------
    ResultError
        If nothing can be written there, saying why.
    """
    _make(folder, folder)
    inner = folder if name is None else folder / name
    if inner.exists() and not inner.is_dir():
        raise ResultError(f"{inner}: a file, where a folder for results is needed; name another with --output")
    if inner.is_dir():
        _check_writable(inner)
    return folder


def output_file(path: Path, suffix: str) -> Path:
    """Return `path`, its folder made where there is none, once a file of this name can be written.

    Raises
    ------
    ResultError
        If it cannot, saying why: it is a folder or a device, or its folder takes no file.
    """
    try:
        if path.is_dir():
            example = (path / f"NAME{suffix}").as_posix()
            raise ResultError(f"{path}: a folder, where the file to write is needed, as in {example}")
        if path.exists() and not path.is_file():
            raise ResultError(f"{path}: not a file; name one to write, as in NAME{suffix}")
    except OSError as problem:
        raise ResultError(f"{path}: cannot be written: {problem.strerror}") from None
    _make(path.parent, path)
    return path


def write_or_print(write: Callable[[], T], shown: str) -> T:
    """Return what `write` returns; where it fails, print what was worked out first, so that it is not lost."""
    try:
        return write()
    except KvsimError:
        typer.echo(shown, nl=not shown.endswith("\n"))
        raise


def draw(figure: Any, page: Page, folder: Path, name: str) -> None:
    """Write a picture and its page into a folder, and print where they are."""
    from kvsim.report.html.page import page_html
    from kvsim.report.results import write_picture
    from kvsim.report.style import png

    typer.echo(f"\npicture: {write_picture(png(figure), folder, f'{name}.png')}")
    typer.echo(f"report: {write_picture(page_html(page), folder, f'{name}.html')}")


def as_argument(path: Path, suffix: str) -> str:
    """Return how a command line names the file: a path that is not taken for the name of something shipped.

    Examples
    --------
    >>> as_argument(Path("x"), ".kvtrace"), as_argument(Path("my x.kvtrace"), ".kvtrace")
    ('./x', "'my x.kvtrace'")
    """
    text = str(path)
    is_path = "/" in text or text.endswith(suffix)
    return shlex.quote(text if is_path else f"./{text}")


def _make(folder: Path, path: Path) -> None:
    """Make `folder` for `path`, and see that it takes files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ResultError(f"{path}: cannot be written: {folder} is a file, not a folder") from None
    except OSError as problem:
        raise ResultError(f"{path}: cannot be written: {problem.strerror}") from None
    _check_writable(folder, path)


def _check_writable(folder: Path, path: Path | None = None) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as problem:
        raise ResultError(f"{path or folder}: cannot be written: {problem.strerror}") from None
