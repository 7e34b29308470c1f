"""The length of a decode step with everything on the device, read off a profile without a simulation."""

from __future__ import annotations

from kvsim.profile.estimate.hosts import LAYER
from kvsim.profile.profile import Profile


def decode_step_s(profile: Profile, *, batch: int, context_tokens: float) -> float:
    """Return the seconds of a step of `batch` sequences of `context_tokens`: host and device one after the other.

    A step ends when its token has been read back, so the host's part before the first kernel is not hidden; of kernels
    launched one by one, whichever of host and device takes longer decides.
    """
    device_s = device_step_s(profile, batch=batch, context_tokens=context_tokens)
    host_s = _sum_s(profile, batch=batch, context_tokens=context_tokens, is_host=True)
    return device_s + host_s if profile.runtime == "graph" else max(device_s, host_s)


def device_step_s(profile: Profile, *, batch: int, context_tokens: float) -> float:
    """Return the seconds of the step's kernels alone."""
    return _sum_s(profile, batch=batch, context_tokens=context_tokens, is_host=False)


def _sum_s(profile: Profile, *, batch: int, context_tokens: float, is_host: bool) -> float:
    total_s = 0.0
    for name, count in (("embed", 1), *((part, profile.shape.paged_layers) for part in LAYER), ("head", 1)):
        cost = profile.segments[name]
        table = cost.host if is_host else cost.device
        if table is not None:
            amount = batch * context_tokens if table.amount == "tokens" else 0.0
            total_s += count * table.at_s(amount, sequences=batch)
    return total_s
