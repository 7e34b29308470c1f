"""Checks that every experiment makes: sizes that must be those of the scenario, and lengths that a model can read."""

from __future__ import annotations

from kvsim.errors import ScenarioError
from kvsim.scenario.shapes import ModelShape


def differing_fields(shape: ModelShape, expected: ModelShape) -> str:
    """Return the fields in which two shapes differ with both values; empty where they are equal.

    Examples
    --------
    >>> from kvsim.scenario.shapes import SHAPES
    >>> differing_fields(SHAPES["llama-3-8b"], SHAPES["mistral-7b"])
    'vocab_size (128256, not 32768)'
    """
    pairs = ((name, value, getattr(expected, name)) for name, value in shape)
    return ", ".join(f"{name} ({value}, not {other})" for name, value, other in pairs if value != other)


def check_shape(shape: ModelShape, expected: ModelShape, *, where: str) -> None:
    """Refuse a model of other sizes than the scenario's.

    Raises
    ------
    ScenarioError
        Naming every field that differs.
    """
    if shape != expected:
        raise ScenarioError(
            f"{where} has another shape than model.shape, in these fields: {differing_fields(shape, expected)}"
        )


def check_length(num_tokens: int, limit_tokens: int | None, *, where: str) -> None:
    """Refuse more tokens than a model reads; `limit_tokens` is None where nothing limits them.

    Raises
    ------
    ScenarioError
        With both numbers.
    """
    if limit_tokens is not None and num_tokens > limit_tokens:
        raise ScenarioError(f"{where}: {num_tokens} tokens, the model reads {limit_tokens}")
