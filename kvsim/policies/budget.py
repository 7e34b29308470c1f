"""What a scenario's selector and budget come to for a model: slots, the least that works, and what a policy gets."""

from __future__ import annotations

import math

from kvsim.errors import CapacityError, ScenarioError
from kvsim.policies import find_policy
from kvsim.policies.base import Policy, Setting
from kvsim.policies.selectors import Full, Selector, Threshold, TopK
from kvsim.scenario.decode import PolicyChoice, Scenario, SelectorChoice
from kvsim.scenario.shapes import ModelShape
from kvsim.types import PageGrid, pages_of
from kvsim.units import format_bytes


def make_selector(choice: SelectorChoice) -> Selector:
    """Return the selector that `choice` describes."""
    if choice.name == "full" or choice.k_pages is None:
        return Full()
    if choice.name == "top-k":
        return TopK(k_pages=choice.k_pages, sink_pages=choice.sink_pages, recent_pages=choice.recent_pages)
    assert choice.threshold is not None  # the scenario's validator
    return Threshold(
        threshold=choice.threshold,
        max_k_pages=choice.k_pages,
        sink_pages=choice.sink_pages,
        recent_pages=choice.recent_pages,
    )


def budget_pages(scenario: Scenario, shape: ModelShape, context_tokens: int) -> int:
    """Return the device slots of the whole batch that the scenario's budget buys."""
    budget, batch = scenario.budget, scenario.run.batch
    if budget.pages_per_layer is not None:
        return budget.pages_per_layer * shape.paged_layers * batch
    if budget.bytes is not None:
        return budget.bytes // shape.page_bytes(scenario.page_tokens)
    assert budget.context_frac is not None  # the scenario's validator
    per_layer = math.ceil(budget.context_frac * pages_of(context_tokens, scenario.page_tokens))
    return per_layer * shape.paged_layers * batch


def minimum_pages(scenario: Scenario, shape: ModelShape, policy: type[Policy], context_tokens: int) -> int:
    """Return the smallest budget of the whole batch: the largest selection of a (step, layer), and what is pinned.

    A policy that reads everything needs the next layer's pages besides. With a pool a layer, each must hold the
    largest selection. A policy that drops pages needs what is pinned.
    """
    batch, total = scenario.run.batch, pages_of(context_tokens, scenario.page_tokens)
    reads_all = policy.attends == "everything" or scenario.selector.name == "full"
    largest = total if reads_all else make_selector(scenario.selector).max_pages(total)
    pinned = min(total, scenario.selector.sink_pages + scenario.selector.recent_pages + 1)
    if policy.attends == "resident":
        return batch * shape.paged_layers * pinned
    if scenario.budget.partition == "per_layer":
        return largest * shape.paged_layers * batch
    at_once = min(shape.paged_layers, 2 if policy.attends == "everything" else 1)
    return batch * (at_once * largest + (shape.paged_layers - at_once) * min(pinned, largest))


def make_setting(
    scenario: Scenario, shape: ModelShape, policy: type[Policy], grid: PageGrid, *, context_tokens: int, seed: int
) -> Setting:
    """Return the sizes that a policy gets; `context_tokens` is the longest context of the run."""
    everything = policy.holds == "everything"
    return Setting(
        grid=grid,
        capacity_pages=grid.num_pages
        if everything
        else min(budget_pages(scenario, shape, context_tokens), grid.num_pages),
        partition="shared" if everything else scenario.budget.partition,
        prefetch_quota_pages=min(scenario.prefetch.quota_pages, grid.num_pages),
        seed=seed,
    )


def check_budget(
    scenario: Scenario,
    shape: ModelShape,
    choice: PolicyChoice,
    context_tokens: int,
    *,
    policy: type[Policy] | None = None,
) -> None:
    """Refuse a budget below the minimum.

    Parameters
    ----------
    policy
        The class of `choice`, where it is not to be imported by name.

    Raises
    ------
    CapacityError
        Naming the minimum.
    ScenarioError
        If the policy needs scores and the selector makes none.
    """
    policy = policy or find_policy(choice.name)
    if policy.attends == "resident" and policy.reads_selection and scenario.selector.name == "full":
        raise ScenarioError(
            f"{scenario.name}: policy {choice.shown!r} drops pages by their scores, and selector 'full' scores none; "
            "set selector.name = 'top-k' and a selector.channel"
        )
    if policy.holds == "everything":
        return
    have = budget_pages(scenario, shape, context_tokens)
    least = minimum_pages(scenario, shape, policy, context_tokens)
    if have < least:
        per_layer = math.ceil(least / (shape.paged_layers * scenario.run.batch))
        page_bytes = shape.page_bytes(scenario.page_tokens)
        raise CapacityError(
            f"{scenario.name}: budget of {have} pages ({format_bytes(have * page_bytes)}) is below the minimum of "
            f"policy {choice.shown!r} at {context_tokens} tokens: {least} pages "
            f"({format_bytes(least * page_bytes)}); set budget.pages_per_layer to at least {per_layer}"
        )
