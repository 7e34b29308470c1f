"""What decode's results were made from besides the files that scenarios name: plug-ins, and accesses in memory."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from kvsim.errors import ScenarioError
from kvsim.experiments.decode.cells import Cell
from kvsim.experiments.provenance import policy_input
from kvsim.policies.attribution import is_own
from kvsim.policies.registry import load_class
from kvsim.policies.source_code import code_digest
from kvsim.profile.provenance import Input
from kvsim.traces.access.arrays import NAME, Trace


def own_inputs(cells: Iterable[Cell], accesses: Trace | None) -> list[Input]:
    """Return the plug-ins of cells, each once, and accesses that no file holds."""
    kinds = {name: kind for cell in cells for name, kind in plug_ins_of(cell).items()}
    inputs = [policy_input(name, kind) for name, kind in kinds.items()]
    if accesses is not None:
        inputs.append(Input(role="trace", name=NAME, digest=accesses.digest, covers="all numbers"))
    return inputs


def plug_in_codes(cell: Cell) -> dict[str, str | None]:
    """Return a digest of the code of each plug-in of a cell."""
    return {name: code_digest(kind) for name, kind in plug_ins_of(cell).items()}


def plug_ins_of(cell: Cell) -> dict[str, type[Any]]:
    """Return the class of each plug-in of a cell: its policy, or parts of it that its arguments name."""
    kinds: dict[str, type[Any]] = {}
    for name in (cell.choice.name, *cell.choice.arguments.values()):
        if not isinstance(name, str) or ":" not in name:
            continue
        with suppress(ScenarioError):  # an argument that names no class
            made_of = cell.plug_ins[name] if name in cell.plug_ins else load_class(name, "policy")
            kind = made_of if isinstance(made_of, type) else type(made_of)
            if not is_own(kind):
                kinds[name] = kind
    return kinds
