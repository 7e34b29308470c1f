"""The commands about cards: `kvsim card list` and `show`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from kvsim.cli.choices import ObjectsAsJson

card_app = typer.Typer(help="Data sheets of cards, from which profiles are estimated.")


@card_app.command("list")
def card_list(as_json: ObjectsAsJson = False) -> None:
    """List the cards that ship: memory, bandwidths and matrix rates."""
    from kvsim.profile.cards.load import card_names, load_card
    from kvsim.profile.estimate.coefficients import load_coefficients
    from kvsim.report.card_table import card_list_text

    cards = [load_card(name) for name in card_names()]
    if as_json:
        typer.echo(json.dumps([card.model_dump(mode="json", exclude={"sources"}) for card in cards], indent=2))
    else:
        typer.echo(card_list_text(cards, load_coefficients().architectures))


@card_app.command("show")
def card_show(
    name: Annotated[str, typer.Argument(help="A card that ships, or a TOML file of your own.")],
    as_json: ObjectsAsJson = False,
) -> None:
    """Print every figure of a card with its source."""
    from kvsim.profile.cards.load import load_card
    from kvsim.profile.estimate.coefficients import load_coefficients
    from kvsim.report.card_table import card_text

    card = load_card(name)
    if as_json:
        typer.echo(json.dumps(card.model_dump(mode="json"), indent=2))
    else:
        typer.echo(card_text(card, load_coefficients().architectures))
