"""Times a few costs of a profile again, in some ten seconds: one context, one batch, two transfers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from kvsim.calibration import cuda
from kvsim.calibration.bench import Bench
from kvsim.calibration.fit import Sample
from kvsim.calibration.links import link_samples
from kvsim.calibration.plan import SPOT
from kvsim.calibration.random_inputs import random_tokens
from kvsim.calibration.segments import segment_samples
from kvsim.calibration.timers import torch_threads
from kvsim.engine.links.base import EmulatedLink, Link
from kvsim.engine.links.cuda import CudaLink
from kvsim.engine.links.page_pool import PagePool
from kvsim.engine.model.loading import load_model, shape_of
from kvsim.profile.profile import Profile


def spot_samples(profile: Profile, model: Path | str) -> dict[str, list[Sample]]:
    """Return new samples of the segments and of copies to the device, by the names of `Profile.tables`.

    Raises
    ------
    KvsimError
        If the model cannot be loaded.
    """
    page_tokens = profile.page_tokens[len(profile.page_tokens) // 2]
    device = profile.device
    loaded, _ = load_model(model, profile.shape.dtype, device)
    shape = shape_of(loaded)
    plan = replace(SPOT, page_tokens=(page_tokens,)).within(shape.learned_positions)
    with torch.inference_mode(), torch_threads(profile.machine.num_threads or 1):
        tokens = random_tokens(shape, shape.num_layers, SPOT.max_context_tokens, device=device)
        stated = profile.link.stated_bandwidth_bytes_per_s
        bandwidth = stated or 1.0
        make_link: Callable[[PagePool], Link]
        if device == "cuda":
            copies = cuda.cuda_link_samples(tokens, plan, stated)
            to_device, mechanism = copies.to_device, copies.mechanism
            make_link = lambda pool: CudaLink(  # noqa: E731
                pool, window_transfers=2, mechanism=mechanism, slowed_bytes_per_s=stated
            )
        else:
            to_device = link_samples(tokens, plan, bandwidth_bytes_per_s=bandwidth, advance=_ignore).to_device
            make_link = lambda pool: EmulatedLink(pool, bandwidth)  # noqa: E731
        bench = Bench(
            model=loaded,
            shape=shape,
            tokens=tokens,
            bandwidth_bytes_per_s=bandwidth,
            plan=plan,
            advance=_ignore,
            make_link=make_link,
        )
        segments = segment_samples(cuda.device_bench(bench) if device == "cuda" else bench)
    return {f"segments.{name}": rows for name, rows in segments.items()} | {"link.to_device": to_device}


def _ignore(steps: int) -> None:
    """Show no progress."""
    del steps
