"""Compares two schedules of one workload step by step, and states the first difference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any

from kvsim.experiments.serving.schedules.prepare import prepare
from kvsim.experiments.serving.schedules.workload import RecordedStep, Workload

FIELDS = (
    "scheduled",
    "admitted",
    "preempted",
    "preempted_order",
    "evicted",
    "stored",
    "free_blocks",
    "running",
    "waiting",
    "finished",
    "free_after",
)
"""What is compared of a step, in this order; what only one side has is left out."""


def first_difference(recorded: Workload, steps: Iterable[RecordedStep]) -> str | None:
    """Return where `steps` first differ from those of a recorded workload, None if they are equal.

    Blocks are compared by the tokens that they and their prefix stand for: one block has many names.
    """
    ids = {request.id: place for place, request in enumerate(recorded.requests)}
    chains = prepare(recorded).chains.lists()
    views: dict[str, Callable[[Any], Any]] = {
        "evicted": lambda names: [chains[ids[name]][index] for name, index in names],
        "stored": lambda runs: [key for name, index, count in runs for key in chains[ids[name]][index : index + count]],
    }
    for number, (left, right) in enumerate(zip_longest(recorded.steps or (), steps)):
        if left is None or right is None:
            return f"step {number}: only the {'recorded' if right is None else 'other'} schedule has it"
        for field in FIELDS:
            values = getattr(left, field), getattr(right, field)
            view = views.get(field, lambda value: value)
            if None not in values and view(values[0]) != view(values[1]):
                return f"step {number}: {field}: recorded {_short(values[0])}, other {_short(values[1])}"
    return None


def _short(value: Sequence[Any] | int) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + "..."
