"""A tiny model, a profile with the costs of the other caches, and a text: what tests of every kind start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kvsim.engine.model.loading import read_shape
from kvsim.profile.profile import write_profile
from kvsim.profile.tables import CostTable
from tests.accesses import make_profile


def forward_table(weights_s: float = 1e-3, token_s: float = 1e-5, cached_s: float = 1e-7) -> CostTable:
    """Return the cost of a call that is linear in new tokens and in cached ones."""
    new, cached = (1.0, 64.0, 512.0), (0.0, 512.0)
    time_s = tuple(tuple(weights_s + token_s * amount + cached_s * before for before in cached) for amount in new)
    return CostTable(amount="tokens", amounts=new, columns_are="cached_tokens", columns=cached, time_s=time_s)


def write_tiny(
    model_path: Path,
    folder: Path,
    caches: dict[str, CostTable] | None = None,
    *,
    prefill: CostTable | None = None,
    stated_bytes_per_s: float | None = None,
) -> str:
    """Write ``p.toml`` and ``text.txt`` into `folder`, and return the tables [model] and [profile] of a scenario.

    A link of `stated_bytes_per_s` is an emulated one.
    """
    shape = read_shape(model_path, "fp32")
    profile = make_profile(bandwidth_bytes_per_s=2e9)
    tables = caches if caches is not None else {f"forward@{batch}": forward_table() for batch in (1, 2)}
    machine = profile.machine.model_copy(update={"num_threads": 1})
    changes = {"shape": shape, "machine": machine, "caches": tables, "prefill": prefill}
    if stated_bytes_per_s is not None:
        stated = {"emulated": True, "stated_bandwidth_bytes_per_s": stated_bytes_per_s}
        changes["link"] = profile.link.model_copy(update=stated)
    write_profile(profile.model_copy(update=changes), folder / "p.toml")
    letters = np.random.default_rng(0).choice(list("etaoin shrdlu"), size=900)
    (folder / "text.txt").write_text("".join(letters))
    sizes = "\n".join(
        f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
        for name, value in shape
        if value is not None
    )
    return f'[model]\npath = "{model_path}"\n[model.shape]\n{sizes}\n[profile]\npath = "p.toml"\n'
