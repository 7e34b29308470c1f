"""The cells of a decode scenario, resolved once: whatever is asked of one later stands in it, for simulator and engine.

`resolve` builds them and reports every error of every cell at once; `cells_of` builds them one by one, each with its
own error, for sweeps in which one cell's error must not end the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kvsim.errors import KvsimError, ScenarioError
from kvsim.policies import budget as budgets
from kvsim.policies import cost_name, find_policy, make_policy
from kvsim.policies.base import Policy, Setting
from kvsim.policies.baselines import PEERS
from kvsim.policies.budget import make_selector
from kvsim.policies.devices import DeviceShare, device_layers, device_settings, device_shape, whole_setting
from kvsim.policies.registry import NO_PLUG_INS, PlugIns
from kvsim.policies.selectors import Selector
from kvsim.profile.choose import chosen_profile
from kvsim.profile.other_shape import adapted
from kvsim.profile.profile import Profile, check_made_for
from kvsim.scenario.decode import Measure, PolicyChoice, Scenario
from kvsim.scenario.shapes import ModelShape
from kvsim.types import PageGrid, pages_of

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How long one run is."""

    context_tokens: int
    """The longest context, that of the last step."""
    num_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination of the fields that vary, under one policy."""

    scenario: Scenario
    """With the cell's own values and no sweep."""
    choice: PolicyChoice
    policy: type[Policy]
    shape: ModelShape
    profile: Profile
    extent: Extent
    setting: Setting
    """Sizes that the policy may know, for the first repetition."""
    selector: Selector | None
    """What chooses pages; None where all are read and nothing is scored."""
    swept: dict[str, Any]
    """The swept fields and the values they have here."""
    plug_ins: PlugIns = field(default_factory=dict)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page."""
        return self.shape.page_bytes(self.scenario.page_tokens)

    @property
    def cost_name(self) -> str:
        """What a profile calls the cost of the policy's decisions."""
        return cost_name(self.choice.name, self.choice.arguments)

    @property
    def holds_everything(self) -> bool:
        """Whether the policy keeps every page on the device, whatever the budget."""
        return self.policy.holds == "everything"

    @property
    def is_peer(self) -> bool:
        """Whether this is somebody else's cache (`kvsim.policies.baselines`): measured, never simulated."""
        return self.choice.name in PEERS

    @property
    def device_layers(self) -> tuple[range, ...]:
        """The layers with pages that lie on each device; checked when the cell was built."""
        return device_layers(self.scenario, self.shape)

    @property
    def device_memory_bytes(self) -> int:
        """Memory of a device to plan for: the scenario's, or else the profile's."""
        return self.scenario.profile.device_memory or self.profile.device_memory_bytes

    def make_policy(self, seed: int | None = None) -> Policy:
        """Return a fresh policy for one run; with the scenario's own seed where none is given."""
        return make_policy(self.choice.name, self.setting_for(seed), self.choice.arguments, self.plug_ins)

    @property
    def device_settings(self) -> tuple[Setting, ...]:
        """Sizes that the policy of each device may know, for the first repetition."""
        layers = self.device_layers
        if len(layers) == 1:
            return (self.setting,)
        return _device_settings(self.scenario, self.shape, self.policy, self.setting.grid, layers, self.extent)

    @property
    def hidden_bytes(self) -> int:
        """Bytes of the batch's hidden state."""
        return self.scenario.run.batch * self.shape.hidden_size * self.shape.dtype_bytes

    def device_shares(self, seed: int | None = None) -> tuple[DeviceShare, ...]:
        """Return what each device has, with fresh policies; nothing where all layers lie on one."""
        layers = self.device_layers
        if len(layers) == 1:
            return ()
        settings = [dataclasses.replace(own, seed=self.setting_for(seed).seed) for own in self.device_settings]
        return tuple(
            DeviceShare(
                layers=own,
                setting=setting,
                policy=make_policy(self.choice.name, setting, self.choice.arguments, self.plug_ins),
            )
            for own, setting in zip(layers, settings, strict=True)
        )

    def setting_for(self, seed: int | None) -> Setting:
        """Return `setting` with the seed of one repetition."""
        return self.setting if seed is None else dataclasses.replace(self.setting, seed=seed)

    def check_budget(self) -> None:
        """Refuse a budget below the minimum, on any device.

        Raises
        ------
        CapacityError
            Stating the minimum.
        """
        for layers in self.device_layers:
            shape = device_shape(self.shape, layers)
            budgets.check_budget(self.scenario, shape, self.choice, self.extent.context_tokens, policy=self.policy)

    def check_one_device(self, what: str) -> None:
        """Refuse what is for one device only.

        Raises
        ------
        ScenarioError
            Naming it.
        """
        if len(self.device_layers) > 1:
            raise ScenarioError(f"{self.scenario.name}: {what} is for one device; set run.devices = 1")

    def with_extent(self, extent: Extent) -> Cell:
        """Return the cell with a run of another length."""
        return _sized(self, extent)

    def with_policy(self, name: str) -> Cell:
        """Return the cell under a built-in policy without arguments."""
        choice = PolicyChoice(name=name)
        return _sized(dataclasses.replace(self, choice=choice, policy=find_policy(name)), self.extent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A cell that cannot be built."""

    choice: PolicyChoice
    swept: dict[str, Any]
    error: KvsimError
    is_for_length: bool
    """Whether its length alone is in the way: a sweep goes on with its other cells."""


def cells_of(
    scenario: Scenario,
    extent_of: Callable[[Scenario, ModelShape], Extent],
    *,
    base_dir: Path | None,
    plug_ins: PlugIns = NO_PLUG_INS,
    adapt: Callable[[Scenario], Scenario] | None = None,
    change_profile: Callable[[Profile], Profile] | None = None,
) -> Iterator[Cell | Refused]:
    """Yield every cell of a scenario, in the file's order, policies innermost.

    Parameters
    ----------
    extent_of
        The length of the run of one concrete scenario.
    base_dir
        Where relative paths of the scenario start, if not here.
    plug_ins
        Classes and instances that cannot be imported by their names.
    adapt
        What to make of each concrete scenario first.
    change_profile
        What to make of each profile first.
    """
    shapes: dict[str, ModelShape] = {}
    profiles: dict[tuple[str, str], Profile] = {}

    def shape_of(concrete: Scenario) -> ModelShape:
        key = concrete.model.model_dump_json()
        if key not in shapes:
            shapes[key] = concrete.model.resolve(base_dir)
        return shapes[key]

    def profile_of(concrete: Scenario, shape: ModelShape) -> Profile:
        of_model = concrete.model.model_dump_json() if concrete.profile.card else ""
        key = concrete.profile.model_dump_json(include={"path", "card", "runtime"}), of_model
        if key not in profiles:
            packing = concrete.model.quantisation
            loaded = chosen_profile(concrete.profile, shape, packing, base_dir=base_dir)
            profiles[key] = change_profile(loaded) if change_profile else loaded
        return profiles[key]

    for own in scenario.cells:
        swept = own.swept_values(scenario.sweep)
        concrete = adapt(own) if adapt else own
        for choice in concrete.run.policies:
            is_for_length = False
            try:
                shape, policy = shape_of(concrete), find_policy(choice.name, plug_ins)
                profile = profile_of(concrete, shape)
                packing, scale = concrete.model.quantisation, concrete.profile.scale
                if not (concrete.profile.allow_other_shape or scale):
                    check_made_for(profile, shape, packing, where=concrete.name)
                profile = adapted(profile, shape, packing, scale=scale)
                device_layers(concrete, shape)  # refuses what cannot be split
                is_for_length = True
                extent = extent_of(concrete, shape)
            except KvsimError as problem:
                yield Refused(choice=choice, swept=swept, error=problem, is_for_length=is_for_length)
                continue
            yield Cell(
                scenario=concrete,
                choice=choice,
                policy=policy,
                shape=shape,
                profile=profile,
                extent=extent,
                setting=_setting(concrete, shape, policy, extent),
                selector=None if concrete.selector.name == "full" else make_selector(concrete.selector),
                swept=swept,
                plug_ins=plug_ins,
            )


def resolve(built: Iterator[Cell | Refused], check: Callable[[Cell], None]) -> list[Cell]:
    """Return the cells, each checked, or raise the errors of all of them at once.

    Raises
    ------
    KvsimError
        The one error there is, as it was raised; or a `ScenarioError` with a line for each different one.
    """
    cells: list[Cell] = []
    errors: dict[str, KvsimError] = {}
    for cell in built:
        if isinstance(cell, Refused):
            errors.setdefault(str(cell.error), cell.error)
            continue
        try:
            check(cell)
        except KvsimError as problem:
            errors.setdefault(str(problem), problem)
        cells.append(cell)
    if len(errors) == 1:
        raise next(iter(errors.values()))
    if errors:
        raise ScenarioError("\n".join(errors))
    return cells


def only(cells: Sequence[_T], number: int, name: str) -> _T:
    """Return one cell by its place, the ``cell`` of a result's rows.

    Raises
    ------
    ScenarioError
        If there is no such cell.
    """
    if not 0 <= number < len(cells):
        raise ScenarioError(f"{name}: no cell {number}; there are {len(cells)}, 0 to {len(cells) - 1}")
    return cells[number]


def measure_of(scenario: Scenario) -> Measure:
    """Return what to measure.

    Raises
    ------
    ScenarioError
        If the scenario does not say.
    """
    if scenario.measure is None:
        raise ScenarioError(
            f"{scenario.name}: no [measure] table; it says what to read and from which length on, as in "
            "measure.prompt_tokens = 2048"
        )
    return scenario.measure


def prompts_of(scenario: Scenario) -> tuple[int, ...]:
    """Return the tokens of each sequence's prompt, as they are measured.

    Raises
    ------
    ScenarioError
        If the scenario says lengths for another batch than its own.
    """
    tokens, batch = measure_of(scenario).prompt_tokens, scenario.run.batch
    if isinstance(tokens, int):
        return (tokens,) * batch
    if len(tokens) != batch:
        raise ScenarioError(
            f"{scenario.name}: measure.prompt_tokens has {len(tokens)} numbers for run.batch = {batch}; give one for "
            f"each sequence, or vary the length of all with sweep.measure.prompt_tokens = {list(tokens)}"
        )
    return tokens


def steps_of(scenario: Scenario) -> tuple[int, ...]:
    """Return the steps that each sequence decodes, as they are measured."""
    measure, batch = measure_of(scenario), scenario.run.batch
    return measure.steps_of(batch) or (measure.num_steps,) * batch


def measured_extent(scenario: Scenario, shape: ModelShape) -> Extent:
    """Return how long a measured run of the scenario is."""
    del shape
    lengths = zip(prompts_of(scenario), steps_of(scenario), strict=True)
    longest = max(prompt + steps for prompt, steps in lengths)
    return Extent(context_tokens=longest, num_steps=measure_of(scenario).num_steps)


def _sized(cell: Cell, extent: Extent) -> Cell:
    setting = _setting(cell.scenario, cell.shape, cell.policy, extent)
    return dataclasses.replace(cell, extent=extent, setting=setting)


def _setting(scenario: Scenario, shape: ModelShape, policy: type[Policy], extent: Extent) -> Setting:
    grid = PageGrid(
        num_sequences=scenario.run.batch,
        num_layers=shape.paged_layers,
        pages_per_layer=pages_of(extent.context_tokens, scenario.page_tokens),
    )
    layers = device_layers(scenario, shape)
    return whole_setting(_device_settings(scenario, shape, policy, grid, layers, extent), grid)


def _device_settings(
    scenario: Scenario,
    shape: ModelShape,
    policy: type[Policy],
    grid: PageGrid,
    layers: Sequence[range],
    extent: Extent,
) -> tuple[Setting, ...]:
    return device_settings(
        scenario, shape, policy, grid, layers, context_tokens=extent.context_tokens, seed=scenario.run.seed
    )
