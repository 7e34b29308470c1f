"""What the two sides of a comparison call a figure."""

from __future__ import annotations

UNITS = ("_s", "_bytes", "_frac")
SIDES = ("measured", "simulated")


def side(name: str, which: str) -> str:
    """Return what one side of a figure is called: its unit stays last.

    Examples
    --------
    >>> side("ttft_mean_s", "measured"), side("hits", "simulated")
    ('ttft_mean_measured_s', 'hits_simulated')
    """
    return f"{stem(name)}_{which}{name.removeprefix(stem(name))}"


def stem(name: str) -> str:
    """Return the name of a figure without its unit."""
    return name.removesuffix(next((unit for unit in UNITS if name.endswith(unit)), ""))
