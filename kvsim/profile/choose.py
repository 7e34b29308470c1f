"""The profile that a scenario asks for: one in a file, or an estimate for a card."""

from __future__ import annotations

from pathlib import Path

from kvsim.errors import ScenarioError
from kvsim.profile.cards.load import load_card
from kvsim.profile.estimate.estimate import estimate_profile
from kvsim.profile.profile import Profile, load_profile
from kvsim.scenario.decode import ProfileChoice
from kvsim.scenario.shapes import ModelShape, Quantisation
from kvsim.scenario.shipped import find_profile


def chosen_profile(
    choice: ProfileChoice, shape: ModelShape, quantisation: Quantisation | None = None, *, base_dir: Path | None
) -> Profile:
    """Return the profile in the file that `choice` names, or an estimate of `shape` on its card.

    Parameters
    ----------
    quantisation
        Weights packed by bitsandbytes as they load, for an estimate.
    base_dir
        Where relative paths start, if not here.

    Raises
    ------
    KvsimError
        If the file or the card cannot be read, or an estimate cannot price the model.
    """
    if choice.card is None:
        assert choice.path is not None  # the scenario's validator
        return load_profile(find_profile(choice.path, base_dir))
    return estimate_profile(
        load_card(choice.card, base_dir), shape, quantisation=quantisation, runtime=choice.runtime or "graph"
    )


def profile_in_file(choice: ProfileChoice, *, base_dir: Path | None, where: str) -> Profile:
    """Return the profile in the file that `choice` names: what runs for real needs a machine's own.

    Raises
    ------
    KvsimError
        If it cannot be read.
    ScenarioError
        If the scenario names a card.
    """
    if choice.path is None:
        raise ScenarioError(
            f"{where}: profile.card = {choice.card!r} is an estimate of a card; this needs a profile of this machine: "
            "`kvsim calibrate` makes one, and --set profile.path=FILE takes it"
        )
    return load_profile(find_profile(choice.path, base_dir))
