"""On which devices a model's layers lie: ``hf_device_map``, which transformers leaves where it spread a model out."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import torch

from kvsim.engine.model.families import decoder_layers, family_of
from kvsim.engine.model.layers import paged_layers
from kvsim.errors import KvsimError

_OFFLOADED = ("cpu", "disk")


def device_layers_of(model: Any) -> tuple[range, ...]:
    """Return the layers with pages of each device, in order; all together where the model lies on one.

    Raises
    ------
    KvsimError
        If some layers' weights are offloaded, or a device's layers are not in a row.
    """
    device_map: Mapping[str, Any] = getattr(model, "hf_device_map", None) or {}
    prefix, places = family_of(model).layers, paged_layers(model.config)
    names = [_device_of(f"{prefix}.{place}", device_map) for place in places]
    offloaded = sorted({str(name) for name in names if str(name) in _OFFLOADED})
    if offloaded and len(set(names)) > 1:
        raise KvsimError(
            f"device_map: weights of some layers are offloaded to {' and '.join(offloaded)}; a PagedCache needs "
            "them where their layers compute: take fewer bits, or more devices"
        )
    runs = [(name, len(list(run))) for name, run in groupby(names)]
    if len(runs) > len(set(names)):
        raise KvsimError(
            "device_map: the layers of a device are not in a row; a PagedCache takes layers that are spread out as "
            'device_map="auto" does'
        )
    ends = [sum(count for _, count in runs[: place + 1]) for place in range(len(runs))]
    return tuple(range(end - count, end) for end, (_, count) in zip(ends, runs, strict=True))


def torch_device_of(part: Any) -> torch.device:
    """Return where the layers of a model or a part of one compute."""
    device: torch.device = next(decoder_layers(part)[0].parameters()).device
    return device


def _device_of(name: str, device_map: Mapping[str, Any]) -> Any:
    """Return the device of a module: that of the longest name in the map that it lies in; None where there is none."""
    parts = name.split(".")
    above = (".".join(parts[:size]) for size in range(len(parts), -1, -1))
    return next((device_map[prefix] for prefix in above if prefix in device_map), None)
