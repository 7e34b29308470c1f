"""Layers that lie on several devices: which on which, and what each has of its own: slots, a budget, a policy."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import ScenarioError
from kvsim.policies.base import Policy, Setting
from kvsim.policies.budget import make_setting
from kvsim.scenario.decode import Scenario
from kvsim.scenario.shapes import ModelShape
from kvsim.types import IntArray, PageGrid, PageIds


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceShare:
    """What one of several devices has: its layers, and a policy that sees these and no others."""

    layers: range
    """Layers with pages, by their place among all of these."""
    setting: Setting
    """Sizes of the device alone: its grid has its layers only."""
    policy: Policy

    def in_whole(self, pages: PageIds, whole: PageGrid) -> PageIds:
        """Return the ids that the device's pages have in the grid of all devices.

        Examples
        --------
        >>> whole = PageGrid(num_sequences=2, num_layers=3, pages_per_layer=10)
        >>> own = Setting(grid=replace(whole, num_layers=1), capacity_pages=4, partition="shared",
        ...               prefetch_quota_pages=0, seed=0)
        >>> DeviceShare(layers=range(2, 3), setting=own, policy=None).in_whole(np.array([0, 15]), whole)
        array([20, 55])
        """
        sequences, rest = np.divmod(pages, len(self.layers) * whole.pages_per_layer)
        first = whole.first_page(sequence=0, layer=self.layers.start)
        ids: PageIds = first + rest + sequences * whole.num_layers * whole.pages_per_layer
        return ids


def split_layers(num_layers: int, num_devices: int) -> tuple[range, ...]:
    """Return the layers of each device in equal shares, in a row; the first devices have one more where it is uneven.

    Examples
    --------
    >>> split_layers(30, 4)
    (range(0, 8), range(8, 16), range(16, 23), range(23, 30))
    """
    share, rest = divmod(num_layers, num_devices)
    return in_a_row([share + (place < rest) for place in range(num_devices)])


def in_a_row(num_layers: Sequence[int]) -> tuple[range, ...]:
    """Return the layers of each device, which has so many."""
    ends = np.cumsum(num_layers).tolist()
    return tuple(range(end - count, end) for end, count in zip(ends, num_layers, strict=True))


def device_layers(scenario: Scenario, shape: ModelShape) -> tuple[range, ...]:
    """Return the layers with pages that lie on each device of a scenario.

    Raises
    ------
    ScenarioError
        If the model has not as many, or what such devices cannot do is asked of them.
    """
    num_devices, counts = scenario.run.devices or 1, scenario.run.layers_per_device
    if num_devices == 1:
        return (range(shape.paged_layers),)
    if shape.window_layers:
        raise ScenarioError(
            f"{scenario.name}: run.devices = {num_devices}: {shape.window_layers} layers of the model hold a sliding "
            "window and have no pages; which device holds them is not simulated: take run.devices = 1"
        )
    if shape.states:
        raise ScenarioError(
            f"{scenario.name}: run.devices = {num_devices}: {shape.state_layers} layers of the model hold a state and "
            "have no pages; which device holds them is not simulated: take run.devices = 1"
        )
    check_channel(scenario)
    if counts is not None and sum(counts) != shape.num_layers:
        raise ScenarioError(
            f"{scenario.name}: run.layers_per_device has {sum(counts)} layers in all, the model has {shape.num_layers}"
        )
    if num_devices > shape.num_layers:
        raise ScenarioError(
            f"{scenario.name}: run.devices = {num_devices}: the model has {shape.num_layers} layers; give each device "
            "one or more"
        )
    return split_layers(shape.num_layers, num_devices) if counts is None else in_a_row(counts)


def check_channel(scenario: Scenario) -> None:
    """Refuse to select by what the layer before predicts: at the first layer of a device that one lies on another.

    Raises
    ------
    ScenarioError
        Saying so.
    """
    if scenario.selector.name != "full" and scenario.selector.channel.startswith("speculate:"):
        raise ScenarioError(
            f"{scenario.name}: selector.channel {scenario.selector.channel!r} with several devices: a device predicts "
            "nothing for the first layer of the next; select by an estimate, as in 'estimate:quest'"
        )


def device_shape(shape: ModelShape, layers: range) -> ModelShape:
    """Return the shape of what a device has of the layers with pages, for counting pages."""
    return shape.model_copy(update={"num_layers": len(layers) + shape.window_layers + shape.state_layers})


def device_settings(
    scenario: Scenario,
    shape: ModelShape,
    policy: type[Policy],
    grid: PageGrid,
    layers: Sequence[range],
    *,
    context_tokens: int,
    seed: int,
) -> tuple[Setting, ...]:
    """Return what the policy of each device gets; `grid` is of all layers, and the budget the scenario's for each."""
    return tuple(
        make_setting(
            scenario,
            device_shape(shape, own),
            policy,
            replace(grid, num_layers=len(own)),
            context_tokens=context_tokens,
            seed=seed,
        )
        for own in layers
    )


def whole_setting(settings: Sequence[Setting], grid: PageGrid) -> Setting:
    """Return the setting of all devices together, whose budgets add up; `grid` is of all layers."""
    if len(settings) == 1:
        return settings[0]
    return replace(settings[0], grid=grid, capacity_pages=sum(setting.capacity_pages for setting in settings))


def joined_digest(digests: NDArray[np.integer]) -> IntArray:
    """Return one digest a step of those of several devices, ``[num_devices, num_steps]``."""
    columns = np.ascontiguousarray(digests.T, dtype=np.int64)
    return np.array([zlib.crc32(column.tobytes()) for column in columns], dtype=np.int64)
