"""What simulator and engine both start from: a cell's layout, its prompts put together, and the order they come in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kvsim.caches import find_cache_policy
from kvsim.errors import CapacityError
from kvsim.experiments.base import shape_of
from kvsim.experiments.prompt_modules.accounting import ModuleStoreState
from kvsim.experiments.prompt_modules.scenario import PromptModules, Stream
from kvsim.experiments.prompt_modules.schema import (
    Assembly,
    Layout,
    LengthOf,
    Prompt,
    Schema,
    assemble,
    lay_out,
    parse_prompts,
    parse_schema,
)
from kvsim.experiments.prompt_modules.schema.markup import read_markup
from kvsim.scenario.checks import check_length
from kvsim.scenario.shapes import check_context
from kvsim.scenario.shipped import near
from kvsim.types import IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Everything of one cell but its costs."""

    layout: Layout
    assemblies: tuple[Assembly, ...]
    """Every prompt of the file, in its order."""
    read_units: tuple[int, ...]
    """Units that some prompt reads, by number."""
    requests: IntArray
    """Which of them arrives, ``[num_requests]``."""
    budget_units: int
    token_bytes: int
    """Bytes of one token's states, in all layers."""

    @property
    def accesses(self) -> list[int]:
        """Every unit read, in order."""
        return [unit for request in self.requests for unit in self.assemblies[request].units]

    def state(self, cell: PromptModules) -> ModuleStoreState:
        """Return the cache state of an empty store."""
        return ModuleStoreState(
            cell.cache.policy,
            budget_units=self.budget_units,
            num_units=len(self.layout.units),
            future=self.accesses,
            seed=cell.cache.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The files of a scenario, read once."""

    schema: Schema
    prompts: tuple[Prompt, ...]


def source_of(scenario: PromptModules, beside: Path | None) -> Source:
    """Return the schema and the prompts that a scenario names.

    Raises
    ------
    MarkupError
        Naming file, line and tag of the first error.
    """
    schema = parse_schema(read_markup(Path(near(scenario.prompts.schema_file, beside))))
    return Source(
        schema=schema,
        prompts=parse_prompts(read_markup(Path(near(scenario.prompts.prompts_file, beside))), schema),
    )


def case_of(cell: PromptModules, source: Source, length_of: LengthOf) -> Case:
    """Return one cell's layout, prompts, requests and budget.

    Raises
    ------
    MarkupError
        If the schema cannot be laid out, or an argument is too long.
    CapacityError
        If the budget holds not one module.
    ScenarioError
        If there is no such policy.
    """
    find_cache_policy(cell.cache.policy)
    layout = lay_out(source.schema, length_of)
    around = cell.prompts.opening, cell.prompts.closing
    assemblies = tuple(
        assemble(layout, prompt, length_of, around=around, scaffolds=cell.encoding.scaffolds)
        for prompt in source.prompts
    )
    shape = shape_of(cell)
    token_bytes = shape.num_layers * shape.page_bytes(1)
    for assembly in assemblies:
        check_context(shape, assembly.end + cell.measure.answer_tokens, f"{cell.name}: prompt {assembly.name!r}")
    read_units = tuple(sorted({unit for assembly in assemblies for unit in assembly.units}))
    largest_bytes = token_bytes * max((layout.units[unit].num_tokens for unit in read_units), default=1)
    return Case(
        layout=layout,
        assemblies=assemblies,
        read_units=read_units,
        requests=requests_of(cell.stream, len(assemblies)),
        budget_units=_budget(cell, max(1, len(read_units)), largest_bytes),
        token_bytes=token_bytes,
    )


def requests_of(stream: Stream, num_prompts: int) -> IntArray:
    """Return which prompt arrives when, ``[num_requests]``."""
    if stream.draw == "in-turn":
        turns: IntArray = np.arange(stream.num_requests) % num_prompts
        return turns
    weights = 1 / np.arange(1, num_prompts + 1) ** stream.skew
    drawn: IntArray = np.random.default_rng(stream.seed).choice(
        num_prompts, size=stream.num_requests, p=weights / weights.sum()
    )
    return drawn.astype(np.int64)


def check_positions(cell: PromptModules, assemblies: Iterable[Assembly], limit_tokens: int | None) -> None:
    """Refuse a prompt that, with its answer, ends behind the last position that a model reads."""
    for assembly in assemblies:
        where = f"{cell.name}: prompt {assembly.name!r}, which ends at {assembly.end}, and measure.answer_tokens"
        check_length(assembly.end + cell.measure.answer_tokens, limit_tokens, where=where)


def _budget(cell: PromptModules, num_read: int, largest_bytes: int) -> int:
    cache = cell.cache
    if cache.budget_frac is not None:
        return max(1, round(cache.budget_frac * num_read))
    if cache.budget_bytes is not None:
        if cache.budget_bytes < largest_bytes:
            raise CapacityError(
                f"{cell.name}: cache.budget_bytes is {cache.budget_bytes:,}; the largest module has {largest_bytes:,}"
            )
        return min(num_read, cache.budget_bytes // largest_bytes)
    return num_read if cache.budget_modules is None else min(num_read, cache.budget_modules)
