"""Every error raised on purpose; the command line prints one as a single line and exits with code 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class KvsimError(Exception):
    """An error in the user's input: the message says what is wrong, where, and what would be right."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how another process makes the error again: from its message, whatever its own arguments are."""
        return _remade, (type(self), self.args), self.__dict__ or None


def _remade(kind: type[KvsimError], arguments: tuple[Any, ...]) -> KvsimError:
    return kind.__new__(kind, *arguments)  # not its __init__, whose arguments are others than the message


class ScenarioError(KvsimError):
    """A scenario, or an option that overrides one, says something that cannot be run."""


class TraceError(KvsimError):
    """An access or request trace is damaged, hostile, or does not hold what was asked of it."""

    def __init__(self, path: Path | str, problem: str, *, line: int | None = None) -> None:
        where = f"{path}" if line is None else f"{path}:{line}"
        super().__init__(f"{where}: {problem}")


class MarkupError(KvsimError):
    """A prompt schema or a prompt is not well-formed, or says something that cannot be laid out."""

    def __init__(self, source: Path | str, problem: str, *, line: int, tag: str = "") -> None:
        where = f"{source}:{line}: <{tag}>" if tag else f"{source}:{line}"
        super().__init__(f"{where}: {problem}")


class CapacityError(KvsimError):
    """A budget, a device or a disk is too small for what was asked."""


class CalibrationError(KvsimError):
    """A profile cannot be measured, read or used."""


class PolicyError(KvsimError):
    """A policy asked for something that it may not do, such as evicting a page being read."""


class ResultError(KvsimError):
    """A result folder is missing, damaged or of another version."""
