"""What a result that was read breaks is reported as its damage: digests can be made again by whoever edits it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvsim.errors import ResultError

_PACKAGE = Path(__file__).parents[1]


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Report figures that are missing or of another type than they should be, while the block reads a result.

    Parameters
    ----------
    what
        What the message begins with: the folder, or a few words.

    Raises
    ------
    ResultError
        In a line that says what went wrong and where, so that an error of kvsim's own is recognised.

    Examples
    --------
    >>> with reading("results/mine"):
    ...     {}["tpot_p50_s"]
    Traceback (most recent call last):
    ...
    kvsim.errors.ResultError: results/mine: damaged: its contents do not fit together (KeyError: 'tpot_p50_s', ...
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as problem:
        frames = [
            frame for frame in traceback.extract_tb(problem.__traceback__) if _PACKAGE in Path(frame.filename).parents
        ]
        last = frames[-1]
        place = f"{Path(last.filename).relative_to(_PACKAGE.parent)}, line {last.lineno}"
        message = " ".join(f"{type(problem).__name__}: {problem}".split())
        raise ResultError(
            f"{what}: damaged: its contents do not fit together ({message}, {place}); run it again"
        ) from problem
