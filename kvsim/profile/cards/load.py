"""Finds cards: those that ship, by name, and a user's own in a TOML file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from kvsim.errors import CalibrationError
from kvsim.profile.cards.card import Card
from kvsim.scenario.toml import nearest, read_toml, validate

DATA = Path(__file__).with_name("cards.toml")


def card_names() -> tuple[str, ...]:
    """Return the names of the cards that ship, in the order of the data file."""
    return tuple(_shipped()["cards"])


def load_card(name: str | Path) -> Card:
    """Return a card that ships by its name, or the one in the TOML file at a path that ends in ``.toml``.

    Raises
    ------
    CalibrationError
        If there is no such card, or its file says something that no card is.

    Examples
    --------
    >>> load_card("rtx-4090").memory_bandwidth_bytes_per_s
    1008000000000
    """
    if str(name).endswith(".toml"):
        return _own_card(Path(name))
    cards = _shipped()["cards"]
    key = str(name).lower()
    if key not in cards:
        raise CalibrationError(f"{name}: no such card, and no FILE.toml of your own{nearest(key, cards)}")
    texts = _shipped()["sources"]
    table = cards[key] | {
        "name": key,
        "sources": {figure: texts[source] for figure, source in cards[key]["sources"].items()},
    }
    return validate(Card, table, where=f"{DATA.name}: {key}", error=CalibrationError)


def _own_card(path: Path) -> Card:
    table = {"name": path.stem, "title": path.stem, "vendor": "other", **read_toml(path, CalibrationError)}
    return validate(Card, table, where=str(path), error=CalibrationError)


@cache
def _shipped() -> dict[str, Any]:
    return read_toml(DATA, CalibrationError)
