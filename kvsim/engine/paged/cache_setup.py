"""What a `PagedCache` takes from a scenario: one cell of it, the input of a decode run, and what makes the link."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kvsim.engine.links.base import EmulatedLink, Link
from kvsim.engine.links.cuda import CudaLink, mechanism_named
from kvsim.engine.links.page_pool import PagePool
from kvsim.engine.model.families import check_readable
from kvsim.engine.model.placement import device_layers_of
from kvsim.engine.paged.decode_input import DecodeInput
from kvsim.errors import KvsimError, ScenarioError
from kvsim.policies import find_policy, make_policy
from kvsim.policies.budget import check_budget, make_selector
from kvsim.policies.devices import (
    DeviceShare,
    check_channel,
    device_layers,
    device_settings,
    device_shape,
    whole_setting,
)
from kvsim.profile.choose import profile_in_file
from kvsim.scenario.decode import PolicyChoice, Scenario, load_scenario
from kvsim.scenario.shapes import ModelShape
from kvsim.scenario.shipped import find_scenario
from kvsim.scenario.toml import nearest
from kvsim.types import PageGrid, pages_of


def concrete_scenario(scenario: Scenario | Path | str, overrides: Sequence[str]) -> tuple[Scenario, Path | None]:
    """Return a scenario without a sweep, and the folder that its paths may start from."""
    beside = None
    if not isinstance(scenario, Scenario):
        path = find_scenario(str(scenario))
        beside = path.parent
        scenario = load_scenario(path, overrides)
    elif overrides:
        raise ScenarioError(f"{scenario.name}: overrides are for a scenario given by file or name")
    cells = scenario.cells
    if len(cells) > 1:
        raise ScenarioError(
            f"{scenario.name}: sweeps {', '.join(scenario.sweep)}; a cache has one value of each: "
            f'give overrides=["{next(iter(scenario.sweep))}=..."]'
        )
    return cells[0], beside


def choice_of(scenario: Scenario, policy: str | None) -> PolicyChoice:
    """Return the policy called `policy` in tables, or the only one."""
    choices = {choice.shown: choice for choice in scenario.run.policies}
    if policy is None and len(choices) == 1:
        return next(iter(choices.values()))
    if policy is None:
        raise ScenarioError(f"{scenario.name}: several policies; say policy= one of {', '.join(choices)}")
    if policy not in choices:
        raise ScenarioError(f"{scenario.name}: no policy {policy!r} in run.policies{nearest(policy, choices)}")
    return choices[policy]


def max_tokens_of(scenario: Scenario, model: Any, max_tokens: int | None) -> int:
    """Return the most tokens of a prompt and what follows it, within what the model reads."""
    if max_tokens is None:
        if scenario.measure is None:
            raise ScenarioError(f"{scenario.name}: no [measure] table states the longest context; give max_tokens=")
        max_tokens = scenario.measure.longest_prompt_tokens + scenario.measure.num_steps
    if max_tokens < 1:
        raise KvsimError(f"max_tokens={max_tokens}: should be at least 1")
    check_readable(model, max_tokens, where="max_tokens")
    return max_tokens


def layers_by_device(scenario: Scenario, model: Any, shape: ModelShape) -> tuple[range, ...]:
    """Return the layers with pages of each device: as the model lies, or as the scenario asks of one that lies on one.

    Raises
    ------
    KvsimError
        If the two differ, or pages cannot be split so.
    """
    lies = device_layers_of(model)
    asked = device_layers(scenario, shape)
    if len(asked) == 1:
        if len(lies) > 1:
            check_channel(scenario)
        return lies
    if len(lies) > 1 and lies != asked:
        raise ScenarioError(
            f"{scenario.name}: run.devices has {_counted(asked)} layers a device, the model lies on its devices with "
            f"{_counted(lies)}; leave run.devices out to take the model as it lies"
        )
    return asked


def check_budgets(
    scenario: Scenario, shape: ModelShape, choice: PolicyChoice, max_tokens: int, layers: Sequence[range]
) -> None:
    """Refuse a budget below the minimum of a device.

    Raises
    ------
    CapacityError
        Naming the minimum.
    """
    for own in layers:
        check_budget(scenario, device_shape(shape, own), choice, max_tokens)


def decode_input(
    scenario: Scenario,
    shape: ModelShape,
    choice: PolicyChoice,
    max_tokens: int,
    layers: Sequence[range] | None = None,
) -> DecodeInput:
    """Return what a decode run needs, with fresh policies; `layers` are those of each device, all on one by default."""
    layers = layers or (range(shape.paged_layers),)
    grid = PageGrid(
        num_sequences=scenario.run.batch,
        num_layers=shape.paged_layers,
        pages_per_layer=pages_of(max_tokens, scenario.page_tokens),
    )
    settings = device_settings(
        scenario,
        shape,
        find_policy(choice.name),
        grid,
        layers,
        context_tokens=max_tokens,
        seed=scenario.run.seed,
    )
    shares = tuple(
        DeviceShare(layers=own, setting=setting, policy=make_policy(choice.name, setting, choice.arguments))
        for own, setting in zip(layers, settings, strict=True)
    )
    setting = whole_setting(settings, grid)
    return DecodeInput(
        selector=None if scenario.selector.name == "full" else make_selector(scenario.selector),
        channel=scenario.selector.channel,
        policy=make_policy(choice.name, setting, choice.arguments),
        setting=setting,
        page_tokens=scenario.page_tokens,
        pinned_first_pages=scenario.selector.sink_pages,
        pinned_last_pages=scenario.selector.recent_pages,
        num_steps=max_tokens,
        warmup_steps=0,
        chunk_pages=scenario.prefetch.chunk_pages,
        window_transfers=scenario.prefetch.window_transfers,
        devices=shares if len(shares) > 1 else (),
    )


def _counted(layers: Sequence[range]) -> str:
    return ", ".join(str(len(own)) for own in layers)


def link_maker(
    scenario: Scenario, model: Any, bandwidth_bytes_per_s: float | None, beside: Path | None
) -> Callable[[PagePool], Link]:
    """Return what makes the link of a pool: copy streams of a GPU, or the emulated link of a CPU."""
    if model.device.type == "cuda":
        return _cuda_link_maker(scenario, bandwidth_bytes_per_s, beside)
    if model.device.type != "cpu":
        raise KvsimError(f"the model is on {str(model.device)!r}; a PagedCache moves pages on the CPU and on CUDA only")
    if bandwidth_bytes_per_s is None:
        profile = profile_in_file(scenario.profile, base_dir=beside, where=scenario.name)
        bandwidth_bytes_per_s = profile.link.stated_bandwidth_bytes_per_s
        if bandwidth_bytes_per_s is None:
            raise ScenarioError(
                f"{scenario.name}: profile {profile.name!r} states no bandwidth for an emulated link; "
                "give bandwidth_bytes_per_s="
            )
    if not bandwidth_bytes_per_s > 0:
        raise KvsimError(f"bandwidth_bytes_per_s must be above 0, got {bandwidth_bytes_per_s}")
    stated = bandwidth_bytes_per_s
    return lambda pool: EmulatedLink(pool, stated)


def _cuda_link_maker(
    scenario: Scenario, bandwidth_bytes_per_s: float | None, beside: Path | None
) -> Callable[[PagePool], Link]:
    if bandwidth_bytes_per_s is not None:
        raise KvsimError("bandwidth_bytes_per_s is of the emulated link; a model on a CUDA device has a real one")
    profile = profile_in_file(scenario.profile, base_dir=beside, where=scenario.name)
    mechanism = mechanism_named(profile.link.to_device.mechanism)
    window_transfers = scenario.prefetch.window_transfers
    return lambda pool: CudaLink(pool, window_transfers=window_transfers, mechanism=mechanism)
