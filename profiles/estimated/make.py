"""Make the estimated profiles that ship, from the data sheets and coefficients that ship.

python profiles/estimated/make.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from kvsim.profile.cards.load import load_card
from kvsim.profile.estimate.estimate import estimate_profile
from kvsim.profile.profile import Profile, write_profile
from kvsim.scenario.shapes import SHAPES

SHIPPED = {"rtx-4090-llama-3-8b-estimated": ("rtx-4090", "llama-3-8b")}
"""Card and shape of each profile, by its name."""


def make(name: str) -> Profile:
    """Return one of the profiles that ship."""
    card, shape = SHIPPED[name]
    return estimate_profile(load_card(card), SHAPES[shape]).model_copy(update={"name": name})


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    for shipped_name in SHIPPED:
        write_profile(make(shipped_name), folder / f"{shipped_name}.toml")
        print(f"wrote {folder / shipped_name}.toml")
