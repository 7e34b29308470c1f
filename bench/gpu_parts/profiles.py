"""Profiles of the trained model and of random weights in well-known shapes, and how one is slowed for a cross-check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from gpu_parts.jobs import LeftOutError, Outcome, Setting
from kvsim.calibration import calibrate, cuda
from kvsim.calibration.fit import Sample, fit_table
from kvsim.calibration.plan import FULL
from kvsim.calibration.random_inputs import random_tokens
from kvsim.profile.profile import LinkCost, Profile, load_profile, write_profile
from kvsim.scenario.shapes import SHAPES, ModelShape

SHAPE_NAMES = ("llama-3-8b", "llama-3.2-1b", "gemma-2-9b")
"""About 8B and 1B, and a vocabulary of 256,000."""

TINY = ModelShape(
    num_layers=3,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    vocab_size=256,
    tied_embeddings=False,
    dtype="bf16",
)
"""What stands for every shape where the command itself is tried."""

PAGE_OF_A_LAYER_FRAC = 0.06
"""What a page takes on a slowed link, of a layer's time: what it takes of one in the cross-check on a CPU."""


def trained_path(setting: Setting) -> Path:
    """Return where the trained model's profile is."""
    return setting.folder("profiles") / f"{setting.device}-smollm2-135m.toml"


def shape_path(setting: Setting, name: str) -> Path:
    """Return where the profile of a shape is."""
    return setting.folder("profiles") / f"{setting.device}-{name}.toml"


def profile_trained(setting: Setting) -> Outcome:
    """Calibrate the trained model."""
    path = trained_path(setting)
    made = calibrate(
        setting.trained(), device=setting.device, name=path.stem, quick=setting.is_small, command=setting.command
    )
    write_profile(made, path)
    return Outcome(headline=_told(made), files=[path])


def profile_shape(name: str) -> Callable[[Setting], Outcome]:
    """Return what calibrates random weights of a shape."""

    def run(setting: Setting) -> Outcome:
        path = shape_path(setting, name)
        shape = TINY if setting.is_small else SHAPES[name]
        made = calibrate(
            shape=shape, device=setting.device, name=path.stem, quick=setting.is_small, command=setting.command
        )
        write_profile(made, path)
        return Outcome(headline=_told(made), files=[path])

    return run


def layer_s(profile: Profile) -> float:
    """Return what one layer of a resident step takes at batch 1: of host and device the slower in each segment."""
    total_s = profile.sync_s
    for name in ("attention_input", "select", "attention", "attention_output"):
        segment = profile.segments[name]
        tables = [table for table in (segment.device, segment.host) if table is not None]
        total_s += max(table.at_s(table.amounts[len(table.amounts) // 2], sequences=1) for table in tables)
    return total_s


def slowed_profile(setting: Setting) -> Outcome:
    """Time the link again, slowed so far that misses can stall: a page takes 6% of a layer. Nothing else changes.

    Without a GPU the trained model's own profile is taken: its link is emulated as it is.
    """
    path = slowed_path(setting)
    if not trained_path(setting).is_file():
        raise LeftOutError("it takes the trained model's profile, which is missing")
    own = load_profile(trained_path(setting))
    if setting.device == "cpu":
        write_profile(own, path)
        return Outcome(headline=f"the link is emulated as it is; {_told(own)}", files=[path])
    bandwidth = own.shape.page_bytes(32) / (PAGE_OF_A_LAYER_FRAC * layer_s(own))
    num_tokens = 2 * max(FULL.pieces) * max(FULL.page_tokens)
    with torch.inference_mode():
        tokens = random_tokens(own.shape, 1, num_tokens, device=setting.device)
        found = cuda.cuda_link_samples(tokens, FULL, bandwidth)
    slowed = own.link.model_copy(
        update={
            "emulated": True,
            "stated_bandwidth_bytes_per_s": bandwidth,
            "to_device": _with_samples(own.link.to_device, found.to_device, found.mechanism),
            "to_host": _with_samples(own.link.to_host, found.to_host, "memcpy"),
            "both_ways_slowdown_frac": found.both_ways_slowdown_frac,
        }
    )
    notes = f"{own.notes} The link is slowed: behind its copy each transfer holds its stream to the stated bandwidth."
    made = own.model_copy(update={"name": path.stem, "link": slowed, "notes": notes})
    write_profile(made, path)
    return Outcome(headline=f"slowed to {bandwidth / 1e9:.2f} GB/s; {_told(made)}", files=[path])


def _with_samples(own: LinkCost, samples: list[Sample], mechanism: str) -> LinkCost:
    """Return the cost of one direction with other transfers; handing one over takes what it took."""
    return LinkCost(transfer=fit_table(samples, "pieces", "piece_bytes"), submit_s=own.submit_s, mechanism=mechanism)


def slowed_path(setting: Setting) -> Path:
    """Return where the profile of the slowed link is."""
    return setting.folder("crosscheck") / f"{setting.device}-smollm2-135m-slowed.toml"


def _told(profile: Profile) -> str:
    table = profile.link.to_device.transfer
    most, size = int(table.amounts[-1]), int(table.columns[-1])
    rate = most * size / profile.link.to_device.transfer_s(most, size)
    return (
        f"a layer {1e6 * layer_s(profile):.0f} us, read-back {1e6 * profile.sync_s:.0f} us, "
        f"copies {profile.link.to_device.mechanism}, {most} pages of {size // 1024} KiB at {rate / 1e9:.1f} GB/s"
    )
