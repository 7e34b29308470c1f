"""Write the table of docs/families.md from the engine's table of families: ``python docs/families.py``."""

from __future__ import annotations

from pathlib import Path

from kvsim.engine.model.family_table import FAMILIES, Family
from kvsim.engine.model.weighting import Weighting

PAGE = Path(__file__).resolve().parent / "families.md"
BEGIN, END = "<!-- families: made by docs/families.py -->\n", "<!-- end of families -->"
_HEAD = (
    "`model_type`",
    "`PagedCache`, `kvsim capture`",
    "next-layer speculation",
    "`kvsim calibrate`, `run`, `measure`, `compare`",
    "prefill and windows by",
    "peculiar",
)


class _Anything:
    """An attention that has whatever a family's weighting asks for."""

    scaling = 1.0
    attn_logit_softcapping = 50.0
    sinks = "one a head"


def table() -> str:
    """Return the table, a line for each family."""
    rows = [_HEAD, ("---",) * len(_HEAD), *(_row(name, family) for name, family in FAMILIES.items())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_table(text: str) -> str:
    """Return a page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


def _row(name: str, family: Family) -> tuple[str, ...]:
    return (
        f"`{name}`",
        "yes",
        "yes",
        "no: the simulator has no pages of latents" if family.has_latent else "yes",
        "SDPA" if family.uses_sdpa else f"plain products: {_beyond_sdpa(family)}",
        family.note,
    )


def _beyond_sdpa(family: Family) -> str:
    weighting: Weighting = family.weighting(_Anything())
    return "capped logits" if weighting.softcap is not None else "sinks"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
