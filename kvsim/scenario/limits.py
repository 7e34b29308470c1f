"""Numbers that a scenario may ask for, where more would run for hours and say nothing else."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field, PositiveInt

MAX_COUNT = 1_000_000

Count: TypeAlias = Annotated[PositiveInt, Field(le=MAX_COUNT)]
"""Requests of a stream, or tokens of an answer: each is simulated by itself."""
